"""``runtime: apptainer``: the command runs in the image and sees only what was declared.

Options as in the Apptainer user guide, "apptainer exec".
"""

from __future__ import annotations

from collections.abc import Mapping

from ca_hpc.core.model import Command, Mount, Runtime

# What Apptainer itself needs. APPTAINER_* and SINGULARITY_* of the caller must not get through:
# APPTAINER_BIND would add folders in spite of --cleanenv.
PASSED = ("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR")
HOME = "/home/ca-hpc"


def wrap(
    command: Command,
    runtime: Runtime,
    *,
    mounts: tuple[Mount, ...],
    work_folder: str,
    gpu: bool,
    host_environment: Mapping[str, str],
) -> Command:
    """``apptainer exec`` with declared mounts, no home of the user, and a clean environment."""
    assert runtime.image is not None
    argv = [runtime.executable, "exec", *runtime.arguments]
    argv += ["--containall", "--cleanenv", "--no-eval"]
    # --containall gives 64 MB for /tmp; this puts it on disk
    argv += ["--workdir", work_folder, "--home", f"{work_folder}/home:{HOME}"]
    if gpu:
        argv.append("--nv")
    for mount in mounts:
        argv += ["--mount", _mount(mount)]
    argv += [runtime.image.path, *command.argv]
    kept = {key: host_environment[key] for key in PASSED if key in host_environment}
    # --env splits its value at commas, APPTAINERENV_ does not
    inside = {f"APPTAINERENV_{key}": value for key, value in command.environment.items()}
    return Command(tuple(argv), {**kept, **inside})


def _mount(mount: Mount) -> str:
    """One value of --mount: CSV, so that a path may hold commas, quotes and newlines."""
    fields = ["type=bind", f"src={mount.path}", f"dst={mount.path}"]
    fields += [] if mount.writable else ["ro"]
    return ",".join(_csv(field) for field in fields)


def _csv(field: str) -> str:
    if any(character in field for character in '",\n\r'):
        return '"' + field.replace('"', '""') + '"'
    return field
