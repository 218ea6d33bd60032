"""Names are replaced; who is whom, and the order, stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ca_hpc.core.pseudonyms import owner_of, pseudonyms
from ca_hpc.core.record import Case, Cases

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


def case(subject: str, session: str | None, *, source: str = "s1", people: str = "") -> Case:
    id_ = f"{source}-{subject}-{session}"
    return Case(id_, source, ("i",), (), subject, subject, session, "T2w", people=people)


def cases(*found: Case) -> Cases:
    return Cases("Dataset501_x", {"cord": 1}, found)


def test_of_names_nothing_is_left() -> None:
    given = cases(case("anna", "spring"), case("ben", None), case("anna", "autumn"))
    new = [pseudonyms(given).of(one) for one in given.cases]
    assert [(one.id, one.subject, one.person, one.session) for one in new] == [
        ("c0002", "p001", "p001", "s2"),
        ("c0003", "p002", "p002", None),
        ("c0001", "p001", "p001", "s1"),
    ]
    assert all(one.images == ("i",) for one in new)


def test_people_of_one_name_are_others_unless_sources_share_them() -> None:
    apart = cases(case("01", None), case("01", None, source="s2"))
    assert len({pseudonyms(apart).of(one).person for one in apart.cases}) == 2
    shared = cases(case("01", None, people="x"), case("01", None, source="s2", people="x"))
    assert len({pseudonyms(shared).of(one).person for one in shared.cases}) == 1


@given(st.sets(st.tuples(names, st.none() | names), min_size=1))
def test_order_and_identity_are_kept(people: set[tuple[str, str | None]]) -> None:
    found = cases(*(case(subject, session) for subject, session in people))
    new = pseudonyms(found)
    old = sorted(one.id for one in found.cases)
    assert new.ids(old) == sorted(new.cases.values())
    pairs = {(owner_of(one), owner_of(new.of(one))) for one in found.cases}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_more_than_their_digits_allow_still_sort() -> None:
    found = cases(*(case(f"{number:05}", None) for number in range(12_000)))
    ids = pseudonyms(found).ids(sorted(one.id for one in found.cases))
    assert ids == sorted(ids) and len(set(ids)) == 12_000
