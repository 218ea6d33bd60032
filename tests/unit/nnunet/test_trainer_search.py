"""Any trainer is found by its name, and no other module is imported on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import ca_hpc
from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.trainer_search import resolve_trainer

REPOSITORY = Path(ca_hpc.__file__).parents[1]
IMPORT = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second of two folders that nnUNet_extTrainer names; the first does not exist."""
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path / 'absent'}:{tmp_path}")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainer",
        "nnUNetTrainerDA5",
        "nnUNetTrainerNoMirroring",
        "nnUNetTrainerDiceCELoss_noSmooth",
        "nnUNetTrainer_250epochs",
        "nnUNetTrainer_warmup",
        "nnUNetTrainer_onlyMirror01_DA5",
    ],
)
def test_nnunets_own_trainers_are_found(name: str) -> None:
    found = resolve_trainer(name)
    assert found.__name__ == name and issubclass(found, nnUNetTrainer)


def test_only_the_trainers_own_module_is_imported() -> None:
    program = """
import sys
from ca_hpc.nnunet.trainer_search import resolve_trainer
resolve_trainer("nnUNetTrainerDA5")
sys.exit(any("primus" in name or "optimizer.nnUNetTrainerAdan" in name for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def test_a_trainer_of_ones_own_is_found_with_what_it_imports(folder: Path) -> None:
    write(folder / "our_loss.py", "FACTOR = 3\n")
    write(folder / "ours_a" / "__init__.py", "")
    write(folder / "ours_a" / "base.py", "WEIGHT = 4\n")
    write(
        folder / "ours_a" / "trainers.py",
        f"from our_loss import FACTOR\nfrom .base import WEIGHT\n{IMPORT}"
        "class OurTrainer(nnUNetTrainer):\n    product = FACTOR * WEIGHT\n",
    )
    found = resolve_trainer("OurTrainer")
    assert issubclass(found, nnUNetTrainer)
    assert found.product == 12  # type: ignore[attr-defined]
    assert str(folder) not in sys.path


def test_files_that_no_one_could_import_are_passed_over(folder: Path) -> None:
    write(folder / "a_broken.py", "class Half(\n")
    write(folder / "b-with-dashes.py", f"{IMPORT}class OfDashes(nnUNetTrainer): ...\n")
    write(folder / "ours_b.py", f"{IMPORT}class OfB(nnUNetTrainer): ...\n")
    assert resolve_trainer("OfB").__name__ == "OfB"
    with pytest.raises(CaHpcError, match="There is no trainer OfDashes"):
        resolve_trainer("OfDashes")


def test_a_trainer_that_does_not_exist_is_answered_with_near_names(folder: Path) -> None:
    with pytest.raises(CaHpcError, match="There is no trainer nnUNetTrainerDA6") as caught:
        resolve_trainer("nnUNetTrainerDA6")
    assert str(folder) in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Did you mean nnUNetTrainerDA5")


def test_a_trainer_that_needs_what_is_not_installed_says_so(folder: Path) -> None:
    write(folder / "ours_c.py", f"import no_such_package\n{IMPORT}class OfC(nnUNetTrainer): ...\n")
    with pytest.raises(CaHpcError, match=r"OfC cannot be imported: .*no_such_package") as caught:
        resolve_trainer("OfC")
    assert caught.value.hint is not None and "ours_c" in caught.value.hint


def test_a_file_with_the_name_of_another_module_is_not_mistaken_for_it(folder: Path) -> None:
    write(folder / "tokenize.py", f"{IMPORT}class OfTokens(nnUNetTrainer): ...\n")
    with pytest.raises(CaHpcError, match=r"tokenize\.py has the name of another module"):
        resolve_trainer("OfTokens")


def test_another_class_is_not_taken_for_a_trainer(folder: Path) -> None:
    write(folder / "ours_d.py", "class NoTrainer: ...\n")
    with pytest.raises(CaHpcError, match="is not a nnU-Net trainer"):
        resolve_trainer("NoTrainer")


@pytest.mark.parametrize("name", ["nnUNetTrainerDA5", "nnUNetTrainerOfOurs"])
def test_a_name_that_could_mean_two_trainers_is_refused(folder: Path, name: str) -> None:
    # an edited copy under the old name would be passed over in silence
    write(folder / "first.py", f"{IMPORT}class {name}(nnUNetTrainer): ...\n")
    write(folder / "second.py", f"{IMPORT}class {name}(nnUNetTrainer): ...\n")
    with pytest.raises(CaHpcError, match=f"trainers {name}: .*first.py") as refused:
        resolve_trainer(name)
    assert refused.value.hint == "Give yours a name of its own."


def test_a_file_that_cannot_be_parsed_is_told_when_its_trainer_is_missing(folder: Path) -> None:
    write(folder / "broken.py", "class Broken(:\n")
    with pytest.raises(CaHpcError, match="no trainer Broken, and these files cannot be parsed"):
        resolve_trainer("Broken")


@pytest.mark.parametrize("line", ["raise SystemExit(0)", "raise ValueError('boom')"])
def test_a_module_that_ends_or_fails_when_imported_is_named(folder: Path, line: str) -> None:
    name = f"Ending{len(line)}"
    write(folder / f"ending{len(line)}.py", f"{IMPORT}{line}\nclass {name}(nnUNetTrainer): ...\n")
    with pytest.raises(CaHpcError, match=f"trainer {name} cannot be imported"):
        resolve_trainer(name)
