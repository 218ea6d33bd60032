"""``ca-hpc`` and ``python -m ca_hpc``: the command line, out of reach of the shell's settings.

Until that runs nothing is imported but ``os`` and ``sys``, which are there already: PYTHONPATH may
have a ``typer`` of its own, or a ``yaml``.
"""

from __future__ import annotations

import os
import sys

# Code of others in every program. LD_LIBRARY_PATH stays: an interpreter of a module may need it.
PRELOADED = ("LD_PRELOAD", "LD_AUDIT")


def main() -> None:
    """Start the command line; anew and isolated (``python -I``) unless this interpreter is.

    UTF-8 mode: files are read and named the same in every locale.
    """
    environment = {name: text for name, text in os.environ.items() if name not in PRELOADED}
    clean = len(environment) == len(os.environ)
    if not (clean and sys.flags.isolated and sys.flags.utf8_mode):
        _refuse_hidden_installation()
        argv = (sys.executable, "-I", "-X", "utf8", "-m", "ca_hpc", *sys.argv[1:])
        os.execve(sys.executable, argv, environment)
    from ca_hpc.cli import main as command_line

    command_line()


def _refuse_hidden_installation() -> None:
    """Say so where this package lies in a folder that no job reads: it would die there, of this."""
    if sys.flags.isolated:  # it was found without
        return
    here = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120
    named = [("PYTHONPATH", path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    if (site := sys.modules.get("site")) is not None and site.ENABLE_USER_SITE:
        named.append(("the user's site-packages", site.getusersitepackages()))
    for name, folder in named:
        if folder and os.path.realpath(folder) == here and not _found_without():
            print(
                f"error: ca-hpc is in {here} ({name}), which jobs do not read\n"
                "hint: install it into a virtual environment, and run it from there",
                file=sys.stderr,
            )
            sys.exit(2)


def _found_without() -> bool:
    """Whether an isolated interpreter finds the package, too: it may be installed from there."""
    code = "import sys, importlib.util as u; sys.exit(u.find_spec('ca_hpc') is None)"
    return os.spawnv(os.P_WAIT, sys.executable, (sys.executable, "-I", "-c", code)) == 0


if __name__ == "__main__":
    main()
