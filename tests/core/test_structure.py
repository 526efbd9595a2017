"""The structure of the code: packages, import directions, no cycles, short functions and files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGE_PACKAGES = {
    "prompts",
    "demonstrations",
    "completions",
    "rewards",
    "hardness",
    "policy",
    "benchmarks",
    "study",
    "report",
}
LOWER_PACKAGES = {"store", "text", "models", "graph", "config"}
MOST_LOOSE_MODULES, MOST_LINES, MOST_FUNCTION_LINES = 8, 420, 80


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(file): file for package in ("drirl_core", "pipeline") for file in _sources(package)}


def _imports(tree: ast.AST, *, top_level: bool) -> Iterator[str]:
    """Yield the modules of this repository that a tree imports; a package re-exporting a name counts as itself."""
    nodes = _module_statements(tree) if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def _module_statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield what runs when the module is imported: not function bodies, not blocks for type checkers."""
    waiting = list(getattr(tree, "body", []))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in MODULES.items()}
GRAPH = {name: sorted(set(_imports(tree, top_level=True)) - {name}) for name, tree in TREES.items()}


def _cycle(graph: dict[str, list[str]]) -> list[str]:
    """Return one cycle of a directed graph, or an empty list."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for other in graph.get(name, ()):
            if found := visit(other):
                return found
        path.pop()
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def test_a_cycle_is_found_if_there_is_one() -> None:
    assert _cycle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert _cycle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_modules_import_each_other_without_cycles() -> None:
    assert _cycle(GRAPH) == []


def test_few_modules_are_outside_packages() -> None:
    loose = sorted(file.name for file in (ROOT / "drirl_core").glob("*.py") if file.name != "__init__.py")
    assert len(loose) <= MOST_LOOSE_MODULES, loose
    assert [file.name for file in (ROOT / "pipeline").glob("*.py") if file.name != "__init__.py"] == ["definitions.py"]


@pytest.mark.parametrize("package", sorted(STAGE_PACKAGES - {"policy", "study"}))
def test_every_stage_package_has_a_stage_file(package: str) -> None:
    assert (ROOT / "drirl_core" / package / "stage.py").is_file()


def test_lower_packages_do_not_import_stages() -> None:
    """Imports inside functions count too; a stage record names its function as text instead."""
    wrong = [
        f"{name} imports {other}"
        for name, tree in TREES.items()
        if name.split(".")[:1] == ["drirl_core"] and name.split(".")[1:2] and name.split(".")[1] in LOWER_PACKAGES
        for other in _imports(tree, top_level=False)
        if other.startswith("drirl_core.") and other.split(".")[1] in STAGE_PACKAGES
    ]
    assert wrong == []


def test_one_package_reads_the_files_of_users() -> None:
    """A second reader would be strict in other places; the drop folder only measures what a gzip file unpacks to."""
    parsers = {"csv", "gzip", "pyarrow.csv"}
    found = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and parsers & {*(alias.name for alias in node.names), getattr(node, "module", None)}
    }
    assert found == {"drirl_core.files.reading", "drirl_core.prompts.inbox"}


def test_drirl_core_does_not_import_pipeline() -> None:
    assert [n for n, tree in TREES.items() if n.startswith("drirl_core") and any(
        o.startswith("pipeline") for o in _imports(tree, top_level=False))] == []  # fmt: skip


def test_functions_and_files_are_short() -> None:
    long = [
        f"{name}.{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert long == []
    files = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    assert {name: lines for name, lines in files.items() if lines > MOST_LINES} == {}
