r"""docs/reliability.md is complete, and every test that it names is there."""

import ast
import re

from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
CASES = range(1, 67)


def rows() -> list[list[str]]:
    lines = [line for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def known() -> set[str]:
    """Every test function, by its file and its name."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        f"{file.stem}::{node.name}"
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_case_has_its_row() -> None:
    """Cases 1 to 66, in order, each with an outcome."""
    assert [int(row[0]) for row in rows()] == list(CASES)
    assert all(len(row) == 4 and row[3] for row in rows())


def test_every_test_that_is_named_is_there() -> None:
    """A row names tests that exist, or says why there is none."""
    named = re.findall(r"test_\w+::test_\w+", TEXT)
    assert not set(named) - known()
    for case, _, tests, outcome in rows():
        there = re.fullmatch(r"test_\w+::test_\w+(, test_\w+::test_\w+)*", tests)
        assert there or (tests == "none" and outcome.startswith(("not built yet", "not run"))), case
        assert bool(there) == outcome.startswith("holds"), case
