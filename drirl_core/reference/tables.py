"""The page of all assets with their tables and checks, from the records of the stages."""

from __future__ import annotations

from collections.abc import Iterator

from drirl_core.checks.asking import rules_of
from drirl_core.checks.verdicts import Rule
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.record import Stage
from drirl_core.graph.rounds import NUMBERS, ROUND_STAGES, number_of
from drirl_core.graph.stages import STAGES
from drirl_core.reference.markdown import MADE, table
from drirl_core.taxonomy import HELPFUL

_INTRO = """# Assets, tables and checks

One section per stage, in the order of the graph. `drirl_core.open_table("prompt_pool")` opens a table as a pandas
DataFrame ([analyse a run](../how-to/notebook.md)). A check that blocks stops whatever is built from the asset; a gate
guards the [promotion](../how-to/promotion.md) alone; a warning stops nothing. Bounds are
[settings](settings.md#checks) of the section `checks`.

![The graph: one box per stage, from the sources to the report](../images/graph.svg)

Arrows that a longer path implies are left out. Shaded stages train or sample.
"""

_PER = {
    "run": "one asset",
    "category": "one asset per harm category, and one for `helpful`",
    "harm_category": "one asset per harm category",
    "suite": "one asset per benchmark suite",
}
REPEATED = frozenset(name for name in ROUND_STAGES if number_of(name) > 1)
"""Stages of later rounds, which are those of the first once more."""


def tables_page() -> str:
    """Return the page as Markdown."""
    lines = [line for name, stage in STAGES.items() if name not in REPEATED for line in _stage(name, stage)]
    return "\n".join([MADE, "", _INTRO, *lines]).rstrip() + "\n"


def _stage(name: str, stage: Stage) -> Iterator[str]:
    member = {"suite": "<suite>"}.get(stage.per, "<category>")
    yield f"## {name}\n"
    yield f"{stage.description.format(member=f'`{member}`')}\n"
    settings = ", ".join(f"`{section}`" for section in stage.config) or "none of its own"
    yield f"- {_PER[stage.per].capitalize()}: {_asset(name, stage, member)}; group `{stage.group}`"
    if name in ROUND_STAGES:
        yield f"- Rounds 2 to {NUMBERS[-1]} have the same, made from the pools of all rounds before"
    yield f"- Made from: {', '.join(stage.inputs)}"
    yield f"- Settings that decide it: {settings}"
    yield f"- Code: `{stage.function}`\n"
    if stage.table:
        yield f"Table `{stage.table.file}`:\n"
        yield from table(("column", "meaning"), [(f"`{column}`", text) for column, text in stage.table.columns.items()])
    rules = rules_of(name)
    if rules:
        yield "Checks:\n"
        rows = [(f"`{rule.name}`", rule.description, _weight(rule), _bounds(rule)) for rule in rules]
        yield from table(("check", "what must hold", "when it fails", "bounds"), rows)


def _asset(name: str, stage: Stage, member: str) -> str:
    if name == "dataset":
        return f"`{dataset_name(member)}` and `{dataset_name(HELPFUL)}`"
    return f"`{name}`" if stage.per == "run" else f"`{name}_{member}`"


def _weight(rule: Rule) -> str:
    return "no promotion" if rule.gate else "blocks" if rule.blocking else "warns"


def _bounds(rule: Rule) -> str:
    return ", ".join(f"`{bound}`" for bound in rule.bounds)
