"""A throw-away cluster as values: its folders, its ports and the text of its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

# How slurmd knows a job's processes. With linuxproc a signal to a step reaches its whole tree,
# with cgroup the direct children of slurmstepd alone, but for KILL: what most sites have.
Tracking = Literal["linuxproc", "cgroup"]

# sockaddr_un.sun_path holds 108 bytes with the closing zero (unix(7)).
LONGEST_SOCKET_PATH = 107

TRACKING: Final[Mapping[Tracking, str]] = {
    "linuxproc": """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# Without cgroups the accounting poll is the only memory limit.
JobAcctGatherParams=OverMemoryKill,UsePss
""",
    "cgroup": """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherParams=UsePss
""",
}


@dataclass(frozen=True)
class Traits:
    """In what clusters differ that matters to jobs.

    ``accounting``: with MariaDB and slurmdbd. ``preempt_signal``: a job that is preempted gets its
    ``--signal`` first. ``tracking`` ``cgroup`` needs the hierarchies of cgroup v1
    (``machine.has_cgroups``).
    """

    accounting: bool = True
    preempt_signal: bool = True
    tracking: Tracking = "linuxproc"


USUAL: Final = Traits()


@dataclass(frozen=True)
class Cluster:
    """One cluster below ``root``; each of its virtual nodes claims CPUs, memory and fake GPUs.

    ``memory_mib`` and ``cpus`` are per node and may exceed what the machine has.
    Raises ``ValueError`` for a root that SLURM or a socket cannot have.
    """

    root: Path
    port_base: int
    nodes: int = 4
    cpus: int = 4
    memory_mib: int = 16000
    gpus: int = 1
    traits: Traits = USUAL

    def __post_init__(self) -> None:
        if not self.root.is_absolute() or any(mark in str(self.root) for mark in " \t\n\"'#=,%"):
            raise ValueError(f"{self.root}: slurm.conf needs an absolute path of plain characters")
        longest = max(len(str(path)) for path in (self.munge_socket, self.mysql_socket))
        if longest > LONGEST_SOCKET_PATH:
            raise ValueError(
                f"{self.root} is {longest - LONGEST_SOCKET_PATH} characters too long for a socket"
            )

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def pids(self) -> Path:
        return self.root / "run"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.root / "run/munge/munge.sock"

    @property
    def mysql_socket(self) -> Path:
        return self.root / "run/mysql/mysqld.sock"

    @property
    def gpu_devices(self) -> tuple[Path, ...]:
        return tuple(self.state / f"gpu/nvidia{index}" for index in range(self.gpus))

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"node{number}" for number in range(1, self.nodes + 1))

    @property
    def slurmctld_port(self) -> int:
        return self.port_base

    @property
    def slurmdbd_port(self) -> int:
        return self.port_base + 1

    @property
    def mysql_port(self) -> int:
        return self.port_base + 2

    @property
    def slurmd_ports(self) -> tuple[int, ...]:
        return tuple(range(self.port_base + 10, self.port_base + 10 + self.nodes))

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.slurmctld_port, self.slurmdbd_port, self.mysql_port, *self.slurmd_ports)

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to talk to this cluster and to no other."""
        return {"SLURM_CONF": str(self.slurm_conf)}

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "root": str(self.root)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Cluster:
        fields = json.loads(text)
        traits = Traits(**fields.pop("traits"))
        return cls(**{**fields, "root": Path(fields["root"]), "traits": traits})


def config_files(cluster: Cluster, *, host: str, version: tuple[int, int]) -> Mapping[Path, str]:
    """The text of every configuration file. ``version`` is SLURM's, such as ``(22, 5)``."""
    return {
        cluster.slurm_conf: _slurm_conf(cluster, host=host),
        cluster.etc / "slurmdbd.conf": _slurmdbd_conf(cluster),
        cluster.etc / "gres.conf": _gres_conf(cluster),
        cluster.etc / "cgroup.conf": _cgroup_conf(cluster, version=version),
        cluster.root / "env.sh": "".join(
            f"export {key}={value}\n" for key, value in cluster.env.items()
        ),
    }


def _slurm_conf(cluster: Cluster, *, host: str) -> str:
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        for name, port in zip(cluster.node_names, cluster.slurmd_ports, strict=True)
    )
    return f"""\
ClusterName=calab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={cluster.slurmctld_port}
SlurmUser=slurm
StateSaveLocation={cluster.state}/slurmctld
SlurmctldPidFile={cluster.pids}/slurm/slurmctld.pid
SlurmctldLogFile={cluster.log}/slurm/slurmctld.log
SlurmdSpoolDir={cluster.state}/slurmd.%n
SlurmdPidFile={cluster.pids}/slurmd.%n.pid
SlurmdLogFile={cluster.log}/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none

AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire before it may start again: 120 s by default.
AuthInfo=socket={cluster.munge_socket},cred_expire=10

# Nodes may claim more than the machine has; systemd is not needed.
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
{TRACKING[cluster.traits.tracking]}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu

# Short, so that a failure shows within a test.
KillWait=10
SlurmdTimeout=20
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=3600
ReturnToService=2
JobRequeue=1
MaxArraySize=1001

# "high" requeues what runs in the others and lets --signal reach the victim first.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{"" if cluster.traits.preempt_signal else "#"}SlurmctldParameters=preempt_send_user_signal

{_accounting(cluster)}
JobCompType=jobcomp/none

NodeName=DEFAULT CPUs={cluster.cpus} RealMemory={cluster.memory_mib} Gres=gpu:{cluster.gpus}
{nodes}
PartitionName=DEFAULT Nodes=ALL State=UP GraceTime=30
PartitionName=long  PriorityTier=1  MaxTime=1-00:00:00 DefaultTime=00:10:00 Default=YES
PartitionName=short PriorityTier=1  MaxTime=00:02:00   DefaultTime=00:01:00
PartitionName=high  PriorityTier=10 MaxTime=01:00:00   DefaultTime=00:05:00 PreemptMode=OFF
"""


def _accounting(cluster: Cluster) -> str:
    if not cluster.traits.accounting:
        return "AccountingStorageType=accounting_storage/none"
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={cluster.slurmdbd_port}
# AuthInfo does not reach the connection to slurmdbd: the munge socket is named here again.
AccountingStoragePass={cluster.munge_socket}
AccountingStorageTRES=gres/gpu"""


def _cgroup_conf(cluster: Cluster, *, version: tuple[int, int]) -> str:
    if cluster.traits.tracking == "cgroup":
        return "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n"
    # From 23.11 on a cgroup plugin is loaded even where no other plugin asks for one.
    return "CgroupPlugin=%s\n" % ("disabled" if version >= (23, 11) else "autodetect")


def _slurmdbd_conf(cluster: Cluster) -> str:
    return f"""\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={cluster.slurmdbd_port}
SlurmUser=slurm
PidFile={cluster.pids}/slurm/slurmdbd.pid
LogFile={cluster.log}/slurm/slurmdbd.log
AuthType=auth/munge
AuthInfo=socket={cluster.munge_socket}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={cluster.mysql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def _gres_conf(cluster: Cluster) -> str:
    lines = [
        f"NodeName={name} Name=gpu File={device}"
        for name in cluster.node_names
        for device in cluster.gpu_devices
    ]
    return "\n".join(["AutoDetect=off", *lines, ""])
