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
# In the work folder: one word, the way in which the image was mounted (ca_hpc/guard/ways.py)
MOUNT_RECORD = "image-mount.txt"


def wrap(
    command: Command,
    runtime: Runtime,
    *,
    mounts: tuple[Mount, ...],
    work_folder: str,
    gpu: bool,
    host_environment: Mapping[str, str],
    node_python: str | None = None,
) -> Command:
    """``apptainer exec`` with declared mounts, no home of the user, and a clean environment.

    With ``node_python`` it is started by the guard (:mod:`ca_hpc.guard`), which mounts the image.
    """
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
    if node_python is not None:
        argv = [*_guard(node_python, image=runtime.image.path, work_folder=work_folder), *argv]
    return Command(tuple(argv), {**kept, **inside})


def _guard(python: str, *, image: str, work_folder: str) -> tuple[str, ...]:
    """What goes before the command: the guard puts its mount point in the image's place."""
    return (
        python, "-I", "-m", "ca_hpc.guard", "--image", image,
        "--mount-point", f"{work_folder}/image", "--record", f"{work_folder}/{MOUNT_RECORD}", "--",
    )  # fmt: skip


def _mount(mount: Mount) -> str:
    """One value of --mount: CSV, so that a path may hold commas, quotes and newlines."""
    fields = ["type=bind", f"src={mount.path}", f"dst={mount.path}"]
    fields += [] if mount.writable else ["ro"]
    return ",".join(_csv(field) for field in fields)


def _csv(field: str) -> str:
    if any(character in field for character in '",\n\r'):
        return '"' + field.replace('"', '""') + '"'
    return field
