from pathlib import Path

import pytest

from tests.tally import Counts, Outcome, complaints, counts_in, table, total

pytest_plugins = ["pytester"]

PASSED = Outcome("unit", "pytest", "passed", counts=Counts(passed=3))
SKIPPED_TEST = Outcome("fakes", "pytest", "passed", counts=Counts(passed=1, skipped=1))
SKIPPED_TIER = Outcome("integration", "pytest", "skipped", "needs root")
FAILED_LINT = Outcome("lint", "mypy", "failed", "exit status 1")


def test_a_report_of_pytest_is_counted(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken():
            raise RuntimeError

        def test_passes(): pass
        def test_fails(): assert False
        def test_cannot_be_set_up(broken): pass
        def test_is_skipped(): pytest.skip()
        """
    )
    report = pytester.path / "report.xml"
    pytester.runpytest_inprocess(f"--junitxml={report}", "-p", "no:cacheprovider")
    assert counts_in(Path(report).read_text()) == Counts(passed=1, failed=2, skipped=1)


def test_a_step_that_fails_fails_the_run() -> None:
    assert complaints([PASSED, FAILED_LINT], require_all=False) == [
        "lint, mypy: failed, exit status 1"
    ]


def test_what_is_skipped_fails_the_run_only_where_all_is_required() -> None:
    outcomes = [PASSED, SKIPPED_TEST, SKIPPED_TIER]
    assert complaints(outcomes, require_all=False) == []
    assert complaints(outcomes, require_all=True) == [
        "fakes, pytest: 1 tests skipped",
        "integration, pytest: skipped, needs root",
    ]


def test_totals_are_of_tests_and_every_step_has_a_line() -> None:
    outcomes = [FAILED_LINT, PASSED, SKIPPED_TEST, SKIPPED_TIER]
    assert str(total(outcomes)) == "4 passed, 0 failed, 1 skipped"
    assert len(table(outcomes).splitlines()) == 1 + len(outcomes)
