"""The walkthrough names files and functions that exist, and stays short."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/walkthrough.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^- `([\w/]+\.py): ([\w.]+)`", PAGE, re.MULTILINE)


def defined_names(file: Path) -> set[str]:
    """Return the functions, classes, methods (`Class.method`) and constants that a module defines."""
    names: set[str] = set()
    for item in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(item.name)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            names.add(item.target.id)
        elif isinstance(item, ast.Assign):
            names |= {target.id for target in item.targets if isinstance(target, ast.Name)}
        if isinstance(item, ast.ClassDef):
            names |= {f"{item.name}.{member.name}" for member in item.body if isinstance(member, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("path", "name"), STEPS)
def test_the_file_of_a_step_defines_its_function(path: str, name: str) -> None:
    assert (ROOT / path).is_file(), f"{path} does not exist"
    assert name in defined_names(ROOT / path)


def test_other_functions_that_a_step_names_exist_too() -> None:
    """`RolloutScorer.reward` stands in the text of a step."""
    known = set().union(*(defined_names(ROOT / path) for path, _ in STEPS))
    named = re.findall(r"`([A-Z]\w+\.\w+)`", PAGE)
    assert named
    assert not set(named) - known


def test_every_item_is_a_step_and_at_most_15_files_are_named() -> None:
    assert STEPS
    assert len(STEPS) == len(re.findall(r"^- ", PAGE, re.MULTILINE))
    assert {path for path, _ in STEPS} == set(re.findall(r"[\w/]+\.py\b", PAGE))
    assert len({path for path, _ in STEPS}) <= 15
