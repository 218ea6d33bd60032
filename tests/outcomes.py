"""What came of a run, so that two of them can be compared to the byte."""

from __future__ import annotations

from pathlib import Path

from ca_hpc.store.digests import sha256_file


def outcome(run: Path) -> dict[str, str]:
    """sha256 of every prediction, of what names the weights behind it, and of the scores."""
    folds = sorted(run.glob("results/**/fold_*/validation"))
    files = {
        f"{folder.parent.name}/{file.name}": file
        for folder in folds
        for pattern in ("predicted_by.json", "*.nii.gz")
        for file in sorted(folder.glob(pattern))
    }
    assert any(name.endswith(".nii.gz") for name in files), run
    files["scores.csv"] = run / "evaluation/scores.csv"
    return {name: sha256_file(file) for name, file in files.items()}
