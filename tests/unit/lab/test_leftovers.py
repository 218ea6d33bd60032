from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lab.leftovers import of_user, processes_naming

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def test_a_process_that_was_not_there_before_is_left_over_until_it_ends() -> None:
    before = of_user(os.getuid())
    with subprocess.Popen(SLEEP) as child:
        left = of_user(os.getuid()) - before
        child.kill()
    assert child.pid in {pid for pid, _, _ in left.processes}
    left = of_user(os.getuid()) - before
    assert child.pid not in {pid for pid, _, _ in left.processes}


def test_a_process_is_found_by_its_folder_its_files_and_its_environment(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    elsewhere = {"cwd": "/", "env": {}}
    with (tmp_path / "file").open() as stream:
        for how in ({"cwd": tmp_path}, {"env": {"RUN": str(tmp_path)}}, {"stdin": stream}):
            with subprocess.Popen(SLEEP, **{**elsewhere, **how}) as child:
                found = {pid for pid, _ in processes_naming(str(tmp_path), uid=os.getuid())}
                child.kill()
            assert child.pid in found, how
    assert child.pid not in {pid for pid, _ in processes_naming(str(tmp_path))}
