import socket
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster, Traits, config_files
from tests.lab.layout import new_cluster
from tests.lab.machine import LabError


def test_a_cluster_is_read_back_from_its_record() -> None:
    cluster = Cluster(root=Path("/var/tmp/lab"), port_base=17000, nodes=2, gpus=3)
    assert Cluster.from_json(cluster.to_json()) == cluster
    odd = Traits(accounting=False, preempt_signal=False, tracking="cgroup")
    cluster = Cluster(root=Path("/var/tmp/lab"), port_base=17000, traits=odd)
    assert Cluster.from_json(cluster.to_json()) == cluster


@pytest.mark.parametrize(
    "root", ["relative/lab", "/tmp/two words", "/tmp/a,b", "/tmp/" + "long" * 30]
)
def test_a_root_that_slurm_or_a_socket_cannot_have_is_refused(root: str) -> None:
    with pytest.raises(ValueError):
        Cluster(root=Path(root), port_base=17000)


def test_every_daemon_has_a_port_of_its_own_and_names_it_in_its_configuration() -> None:
    cluster = Cluster(root=Path("/var/tmp/lab"), port_base=17000, nodes=9)
    assert len(set(cluster.ports)) == 3 + 9
    written = "".join(config_files(cluster, host="here", version=(22, 5)).values())
    configured = {port for port in cluster.ports if f"={port}\n" in written + "\n"}
    assert configured == set(cluster.ports)


def test_no_configuration_leads_outside_the_root() -> None:
    cluster = Cluster(root=Path("/var/tmp/lab"), port_base=17000)
    files = config_files(cluster, host="here", version=(22, 5))
    assert all(path.is_relative_to(cluster.root) for path in files)
    values = [value for text in files.values() for value in text.replace("=", "\n").split()]
    paths = {value for value in values if value.startswith("/")}
    assert paths
    assert {path for path in paths if not path.startswith("/var/tmp/lab/")} == {"/bin/true"}


@pytest.mark.parametrize(("version", "plugin"), [((22, 5), "autodetect"), ((24, 11), "disabled")])
def test_a_slurm_that_loads_a_cgroup_plugin_unasked_gets_none(
    version: tuple[int, int], plugin: str
) -> None:
    cluster = Cluster(root=Path("/var/tmp/lab"), port_base=17000)
    files = config_files(cluster, host="here", version=version)
    assert files[cluster.etc / "cgroup.conf"] == f"CgroupPlugin={plugin}\n"


def test_ports_that_are_taken_are_not_given_to_a_new_cluster(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(LabError, match="no free ports"):
            new_cluster(tmp_path / "lab", nodes=1, port_base=port)


def test_a_folder_with_something_else_in_it_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(LabError, match="not empty"):
        new_cluster(tmp_path, nodes=1, port_base=None)


def test_traits_become_configuration() -> None:
    def conf(traits: Traits) -> str:
        cluster = Cluster(root=Path("/var/tmp/lab"), port_base=17000, traits=traits)
        text = config_files(cluster, host="here", version=(22, 5))[cluster.slurm_conf]
        return "\n".join(line for line in text.splitlines() if not line.startswith("#"))

    usual, odd = conf(Traits()), conf(Traits(False, False, "cgroup"))
    for word in ("slurmdbd", "preempt_send_user_signal", "proctrack/linuxproc"):
        assert word in usual and word not in odd
    assert "ProctrackType=proctrack/cgroup" in odd
