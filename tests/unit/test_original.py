"""What a rerun starts from, and which other files are no drift."""

from __future__ import annotations

import struct
from pathlib import Path

from ca_hpc.actions.original import image_content_fact, of_run
from ca_hpc.core.model import Pin, TaskState
from ca_hpc.core.run_record import File, Image
from ca_hpc.report.run_files import write_run_files
from ca_hpc.report.run_record import compose
from ca_hpc.weights.store import WeightStore
from tests.recorded_run import end, sha256
from tests.rerunnable import rerunnable
from tests.sif import DESCRIPTOR_BYTES, TABLE, descriptor, write_sif

SIGNATURE = 0x4005
FREE, DATA_BYTES = 80, 120  # places in the header
CONTENT = "c" * 64


def signed(sif: Path, copy: Path) -> Path:
    """As ``apptainer sign`` writes it: the table's free row is taken, the file has grown."""
    raw = bytearray(sif.read_bytes())
    row = descriptor(SIGNATURE, offset=len(raw), size=40)
    raw[TABLE + DESCRIPTOR_BYTES : TABLE + 2 * DESCRIPTOR_BYTES] = row
    for place, change in ((FREE, -1), (DATA_BYTES, 40)):
        (number,) = struct.unpack_from("<q", raw, place)
        struct.pack_into("<q", raw, place, number + change)
    copy.write_bytes(raw + bytes(40))
    return copy


def test_an_image_that_was_signed_since_holds_the_same_and_no_other_does(tmp_path: Path) -> None:
    sif = write_sif(tmp_path / "ca.sif")
    recorded = Image(File(str(sif), sha256(sif), sif.stat().st_size), content_sha256=CONTENT)

    def told(file: Path) -> dict[str, str]:
        return image_content_fact(recorded, Pin(str(file), sha256(file)))

    again = signed(sif, tmp_path / "signed.sif")
    assert told(again) == {"image.content": CONTENT}
    grown, changed = tmp_path / "grown.sif", tmp_path / "changed.sif"
    grown.write_bytes(sif.read_bytes() + b"\0")
    changed.write_bytes(again.read_bytes().replace(b"run-singularity", b"run-Singularity"))
    assert [told(file) for file in (sif, grown, changed)] == [{}, {}, {}]
    assert image_content_fact(None, Pin(str(again), sha256(again))) == {}


def test_a_run_is_named_by_the_record_that_lies_in_it(tmp_path: Path) -> None:
    run, store = rerunnable(tmp_path), WeightStore(tmp_path / "store")
    before = of_run(run, compose(run), store=store).of
    write_run_files(run)  # as the report does, whose own attempt is open then
    written = File(run.path.name, sha256(run.file("run.json")), run.file("run.json").stat().st_size)
    assert before == written  # what would be in it
    end(run, "report", state=TaskState.COMPLETED, hour=12)
    assert of_run(run, compose(run), store=store).of == written
