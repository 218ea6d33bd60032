from pathlib import Path

from tests.lab.host import digest


def test_the_digest_follows_content_and_names_but_no_bytecode(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "a.py").write_text("one")
    first = digest([package])
    (package / "__pycache__/a.pyc").write_text("bytecode")
    (package / "missing").mkdir()
    assert digest([package, tmp_path / "no such file"]) == first
    (package / "a.py").write_text("two")
    second = digest([package])
    (package / "a.py").rename(package / "b.py")
    assert len({first, second, digest([package])}) == 3
