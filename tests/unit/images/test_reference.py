"""What a job's ``image`` means by how it is written."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.errors import SpecError
from ca_hpc.images.credentials import RegistryAuth
from ca_hpc.images.reference import InFile, InRegistry, InStore, Reference, check_name, parse

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ca.sif", InFile("ca.sif")),
        ("images/ca", InFile("images/ca")),
        (f"/a b/ca.sif@sha256:{HEX}", InFile("/a b/ca.sif", HEX)),
        ("/user@host/ca.sif", InFile("/user@host/ca.sif")),
        ("training-2026.1", InStore("training-2026.1")),
        (f"training@sha256:{HEX}", InStore("training", HEX)),
        (f"sha256:{HEX}", InStore(digits=HEX)),
        ("sha256:0123ABCD", InStore(digits="0123abcd")),
        (
            "oras://registry.example.org/lab/ca-hpc",
            InRegistry("registry.example.org", "lab/ca-hpc"),
        ),
        ("oras://h:5000/ca:v1.2", InRegistry("h:5000", "ca", tag="v1.2")),
        (f"oras://[::1]:5000/a__b@sha256:{HEX}", InRegistry("[::1]:5000", "a__b", sha256=HEX)),
        (f"oras://h/a:t@sha256:{HEX}", InRegistry("h", "a", tag="t", sha256=HEX)),
    ],
)
def test_an_image_is_meant_by_how_it_is_written(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "-rf",
        "",
        f"ca.sif@sha256:{HEX[:-1]}",
        "sha256:0123",
        "sha256:not-a-digest",
        "oras://h",
        "oras://h/Upper",
        "oras://h/a:",
        "oras://h/a@sha256:12",
        "oras://h/../a",
        "oras://h/a?b=c",
        "oras://localhost:99999/x",
        "oras://h:0/a",
        "oras://h:٣/a",
        "oras://[::::]/x",
        "oras://[::1/x",
        "oras://a..b/x",
        "oras://.a/x",
        "oras://a./x",
        "oras://-a/x",
        f"oras://{'a' * 64}/x",
        f"oras://{'a.' * 127}a/x",
        "oras://127.0.0.999/x",
        "oras://127.1/x",
        f"sha256:{HEX[:8]}@sha256:{HEX}",
        f"sha256:{HEX}@sha256:{HEX}",
        "docker://h/a",
        "https://h/a.sif",
    ],
)
def test_what_can_mean_no_image_is_refused_before_anything_is_asked(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)


@pytest.mark.parametrize("name", ["", "a/b", "ca.sif", ".hidden", "a" * 65, "naïve", "a\n"])
def test_a_name_in_the_store_is_no_path(name: str) -> None:
    with pytest.raises(SpecError):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["oras://lab:s3cret@h/a:t", "oras://lab:s3/cret@h/a", "https://lab:s3cret@h/a"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(text)
    assert "s3" not in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("localhost:5000", "http"),
        ("127.0.0.1", "http"),
        ("[::1]:5000", "http"),
        ("localhost.example.org", "https"),
        ("127.0.0.1.example.org", "https"),
        ("127.999.0.1", "https"),
        ("registry.example.org", "https"),
    ],
)
def test_plain_http_is_for_this_machine_alone(host: str, scheme: str) -> None:
    assert InRegistry(host, "a").api == f"{scheme}://{host}/v2/a"


@given(st.from_regex(r"oras://[a-zA-Z0-9.:\[\]-]{1,20}/a", fullmatch=True))
def test_what_is_an_address_can_be_asked(text: str) -> None:
    try:
        found = parse(text)
    except SpecError:
        return
    assert isinstance(found, InRegistry)
    RegistryAuth(found.host, found.name, login=None, actions="pull")
    assert requests.Request("GET", found.api).prepare().url


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except SpecError:
        return
    assert parse(str(found)) == found
