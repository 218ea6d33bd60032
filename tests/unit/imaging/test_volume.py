"""NIfTI files are read to their end, and written in the smallest type that keeps their values."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ca_hpc.imaging import volume as module
from ca_hpc.imaging.bad_case import BadCase
from ca_hpc.imaging.hashed_file import CHUNK, CutOff, HashedFile
from ca_hpc.imaging.volume import read_volume, write_volume
from tests.prepare_runs import AFFINE, image

Array = NDArray[Any]


def stored(folder: Path, array: Array, *, name: str = "i.nii.gz", **header: float) -> Path:
    picture = nib.Nifti1Image(array, AFFINE, dtype=array.dtype)
    if header:
        picture.header.set_slope_inter(**header)
    nib.save(picture, folder / name)
    return folder / name


def rewritten(file: Path) -> nib.Nifti1Image:
    out = file.with_name("out.nii.gz")
    write_volume(out, read_volume(file))
    return nib.load(out)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        ("int8", "int8"), ("uint8", "uint8"), ("int16", "int16"), (">i2", "int16"),
        ("uint16", "uint16"), ("int32", "int32"), ("float32", "float32"), (">f4", "float32"),
        ("uint32", "float32"), ("int64", "float32"), ("uint64", "float32"), ("float64", "float32"),
    ],
)  # fmt: skip
def test_the_type_is_kept_where_the_reader_of_nnunet_takes_it(
    tmp_path: Path, dtype: str, kept: str
) -> None:
    array = (image(1) % 120).astype(dtype)
    out = rewritten(stored(tmp_path, array))
    assert out.get_data_dtype() == np.dtype(kept)
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), array)


def test_a_scale_is_applied_and_rounded_once(tmp_path: Path) -> None:
    file = stored(tmp_path, image(1), slope=0.0137, inter=-3.0)
    expected = np.asanyarray(nib.load(file).dataobj)  # float64
    out = rewritten(file)
    assert out.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), expected.astype(np.float32))
    np.testing.assert_array_equal(read_volume(file).values(), expected.astype(np.float32))


def test_a_file_of_several_slabs_is_the_same_as_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stored(tmp_path, image(1))
    whole = rewritten(file).get_fdata()
    monkeypatch.setattr(module, "SLAB_BYTES", 300)
    np.testing.assert_array_equal(rewritten(file).get_fdata(), whole)


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "gzipped.nii", "plain.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_any_nifti_is_read_whatever_its_name(tmp_path: Path, name: str, kind: Any) -> None:
    plain = kind(image(1), AFFINE).to_bytes()
    packed = name in ("i.nii.gz", "gzipped.nii")
    (tmp_path / name).write_bytes(gzip.compress(plain) if packed else plain)
    found = read_volume(tmp_path / name)
    np.testing.assert_array_equal(found.voxels, image(1))
    np.testing.assert_array_equal(found.affine, AFFINE)
    assert found.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_what_stands_between_header_and_voxels_is_passed_over(tmp_path: Path) -> None:
    picture = nib.Nifti1Image(image(1), AFFINE)
    picture.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made somewhere" * 99))
    nib.save(picture, tmp_path / "i.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "i.nii.gz").voxels, image(1))


def test_several_members_of_a_gzip_are_one_file(tmp_path: Path) -> None:
    plain = nib.Nifti1Image(image(1), AFFINE).to_bytes()
    parts = [plain[:100], plain[100:900], plain[900:]]  # as bgzip and pigz write them
    file = tmp_path / "i.nii.gz"
    file.write_bytes(b"".join(map(gzip.compress, parts)))
    np.testing.assert_array_equal(read_volume(file).voxels, image(1))
    file.write_bytes(b"".join(map(gzip.compress, parts[:2])))
    with pytest.raises(BadCase, match="it is cut off"):
        read_volume(file)


@pytest.mark.parametrize("behind", [b"\0" * 512, b"anything", gzip.compress(b"more", mtime=0)])
def test_what_follows_the_image_is_no_matter(tmp_path: Path, behind: bytes) -> None:
    file = stored(tmp_path, image(1))
    file.write_bytes(file.read_bytes() + behind)
    found = read_volume(file)
    np.testing.assert_array_equal(found.voxels, image(1))
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = stored(tmp_path, image(1)[:3, :3, :3]).read_bytes()
    file = tmp_path / "cut.nii.gz"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(BadCase, match=r"cannot be read \(it is cut off\)"):
            read_volume(file)


def test_the_same_image_gives_the_same_bytes_whatever_file_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_volume(stored(tmp_path, image(1)))
    write_volume(tmp_path / "a.nii.gz", found)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_volume(tmp_path / "another.nii.gz", found)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "another.nii.gz").read_bytes()


@settings(max_examples=25)
@given(data=st.data(), size=st.integers(0, 2 * CHUNK))
def test_any_way_of_taking_gives_the_same_bytes(
    data: st.DataObject, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = np.random.default_rng(size).bytes(size)
    file = tmp_path_factory.mktemp("taken") / "file"
    whole = data.draw(st.sampled_from([content, gzip.compress(content, 1)]))
    file.write_bytes(whole)
    with file.open("rb") as stream:
        hashed = HashedFile(stream, size=len(whole))
        taken = b""
        while len(taken) < size:
            taken += hashed.take(data.draw(st.integers(1, size - len(taken))))
        assert taken == content
        with pytest.raises(CutOff):
            hashed.take(1)
        assert hashed.sha256() == hashlib.sha256(whole).hexdigest()
