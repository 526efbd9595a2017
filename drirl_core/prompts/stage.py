"""The prompt pool: every source read, every row kept or quarantined with its reason.

Order of the steps: rows that cannot be used; overlap with benchmarks; duplicates; labels the router contradicts; rows
without a label, for which the router chooses a category or abstains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.errors import DataError
from drirl_core.prompts.adapters import PromptRow, SourceRows, read_source
from drirl_core.prompts.duplicates import decontaminate, find_duplicates, words
from drirl_core.prompts.losses import NOT_ROUTED
from drirl_core.prompts.pool import Kept, Pool, Rejected, tell_losses, write_pool
from drirl_core.prompts.router import Router, fit_router, why_no_router
from drirl_core.store.tables import prompt_id

if TYPE_CHECKING:
    from pathlib import Path

    from drirl_core.config import Config
    from drirl_core.graph.build import Context

# UTF-8 read as Windows-1252 (a capital A with tilde or circumflex, or a small a with circumflex, then a character of
# 0x80-0xBF), the replacement character, control and surrogate characters.
_BROKEN = re.compile(
    "[\u00c3\u00c2\u00e2][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d"
    "\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]|\ufffd|[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]"
)
_SHORT_WORD = 12


def build_prompt_pool(context: Context) -> dict[str, Any]:
    """Build the prompt pool: `prompts.parquet`, `quarantine.parquet` and `counts.json`.

    Args:
        context: inputs `source_<name>` for every prompt source of the configuration, the drop folder included.

    Returns:
        Counts, the router's held-out accuracy and calibration error (when there is a router), and a table of the
        categories.

    Raises:
        DataError: a source cannot be read, or rows were lost on the way.
        ConfigError: a source names an unknown adapter, column or category.
    """
    pool = assemble(context)
    tell_losses(context, pool)
    return write_pool(context, pool)


def assemble(context: Context, *, routed: bool = True) -> Pool:
    """Read, clean and categorise the rows of all sources; nothing is written.

    Args:
        context: as for `build_prompt_pool`.
        routed: whether the router looks at the rows. If not, no model is loaded, rows without a label are rejected as
            `NOT_ROUTED`, and no label is contradicted: for a look at the data before a run.

    Raises:
        DataError: a source cannot be read, or rows were lost on the way.
        ConfigError: a source names an unknown adapter, column or category.
    """
    settings, reporter = context.config.prompts, context.reporter
    categories = taxonomy.load_categories(settings.taxonomy)
    read = read_sources(context.config, context.inputs)
    for found in read:
        if found.layout.evaluation:
            reporter.log(
                f"warning: {found.layout.name} is a benchmark; "
                "a policy trained on its prompts must not be measured on it"
            )
    rows = [row for found in read for row in found.rows]
    benchmark = benchmark_prompts(context.config.benchmarks.suites)
    rejected: list[Rejected] = []
    usable = _take(rows, [check_row(row, settings.max_chars) for row in rows], rejected)
    overlaps = decontaminate([row.prompt for row in usable], benchmark, settings.near_duplicate)
    repeats = [
        ("benchmark_overlap", f"repeats the benchmark prompt {o.prompt!r} ({o.similarity:.2f})") if o else None
        for o in overlaps
    ]
    clean = _take(usable, repeats, rejected)
    distinct, groups = _without_duplicates(clean, settings.near_duplicate, rejected)
    kept, router, why_not = _categorise(context, distinct, groups, rejected, routed)
    if why_not:
        reporter.log(f"no category router: {why_not}")
    account(rows, [item.row for item in kept], [item.row for item in rejected])
    return Pool(categories, read, kept, rejected, router)


def read_sources(config: Config, paths: Mapping[str, Path]) -> list[SourceRows]:
    """Read every source of prompts.

    Args:
        config: names the sources.
        paths: file or folder of each one, by asset name.

    Raises:
        DataError: a source cannot be read.
        ConfigError: a source names an unknown adapter, column or category.
    """
    categories, settings = taxonomy.load_categories(config.prompts.taxonomy), config.prompts
    return [
        read_source(s, paths[f"source_{s.name}"], categories, all_files=s not in settings.sources)
        for s in config.prompt_sources
    ]


def check_row(row: PromptRow, max_chars: int) -> tuple[str, str] | None:
    """Say why a row cannot be used, independently of the other rows.

    Args:
        row: the row.
        max_chars: longest prompt that is used.

    Returns:
        A quarantine reason and its detail, or None for a usable row.
    """
    if row.reason:
        return row.reason, row.detail
    prompt = row.prompt.strip()
    found = words(prompt)
    if not found:
        return "empty_prompt", "no letter or digit" if prompt else "no text"
    if len(prompt) > max_chars:
        return "too_long", f"{len(prompt)} characters, at most {max_chars} are used"
    if broken := _BROKEN.search(prompt):
        return (
            "broken_text",
            f"{broken.group()!r} at character {broken.start() + 1} is no readable text; it was decoded wrongly",
        )
    if len(found) == 1 and len(found[0]) <= _SHORT_WORD:
        return "broken_text", "a single word is no request; the row seems cut off"
    return None


def account(read: Sequence[PromptRow], kept: Sequence[PromptRow], quarantined: Sequence[PromptRow]) -> None:
    """Check that every row read was either kept or quarantined, once.

    Raises:
        DataError: a row is lost or counted twice.
    """
    before = Counter((row.source, row.file, row.row) for row in read)
    after = Counter((row.source, row.file, row.row) for rows in (kept, quarantined) for row in rows)
    if before != after:
        places = {(row.source, row.file, row.row): row.place for rows in (read, kept, quarantined) for row in rows}
        lost = [places[key] for key in islice((before - after).elements(), 3)]
        twice = [places[key] for key in islice((after - before).elements(), 3)]
        raise DataError(
            f"prompt pool: {len(read)} rows were read, but {len(kept)} are kept and {len(quarantined)} quarantined "
            f"(lost: {lost}, counted twice: {twice}); this is a bug in drirl_core.prompts.stage, please report it"
        )


def _take(
    rows: Sequence[PromptRow], problems: Sequence[tuple[str, str] | None], rejected: list[Rejected]
) -> list[PromptRow]:
    """Return the rows without a problem and put the others into `rejected`."""
    rejected.extend(Rejected(row, *problem) for row, problem in zip(rows, problems, strict=True) if problem)
    return [row for row, problem in zip(rows, problems, strict=True) if not problem]


def _without_duplicates(
    rows: Sequence[PromptRow], threshold: float, rejected: list[Rejected]
) -> tuple[list[PromptRow], dict[int, str]]:
    """Keep one row of each set of duplicates, labelled rows first.

    Returns:
        The kept rows and the group of each, by the row's identity in memory.
    """
    ordered = sorted(rows, key=lambda row: row.category is None)
    report = find_duplicates([row.prompt for row in ordered], threshold)
    names: dict[int, str] = {}
    for row, group in zip(ordered, report.group, strict=True):
        identity = prompt_id(row.prompt)
        names[group] = min(identity, names.get(group, identity))
    problems: list[tuple[str, str] | None] = []
    for row, duplicate in zip(ordered, report.duplicate, strict=True):
        if duplicate is None:
            problems.append(None)
            continue
        twin = ordered[duplicate.of]
        differs = row.category is not None and twin.category != row.category
        other = f", which is labelled {twin.category}" if differs else ""
        reason = "exact_duplicate" if duplicate.exact else "near_duplicate"
        problems.append((reason, f"repeats {twin.place} ({duplicate.similarity:.2f}){other}"))
    groups = {id(row): names[group] for row, group in zip(ordered, report.group, strict=True)}
    return _take(ordered, problems, rejected), groups


def _categorise(
    context: Context, rows: Sequence[PromptRow], groups: Mapping[int, str], rejected: list[Rejected], routed: bool
) -> tuple[list[Kept], Router | None, str]:
    """Quarantine contradicted labels and route the rows without one, if `routed`.

    Returns:
        The kept rows, the router, and why there is none.
    """
    settings = context.config.prompts
    labelled = [row for row in rows if row.category is not None]
    unlabelled = [row for row in rows if row.category is None]
    labels = [row.category for row in labelled if row.category is not None]
    why_not = why_no_router(labels)
    if why_not or not routed:
        reason = "unknown_category" if why_not else NOT_ROUTED
        lost = [(reason, f"{_as_given(row)}; {why_not or 'the router chooses the category'}") for row in unlabelled]
        _take(unlabelled, lost, rejected)
        return (
            [Kept(row, label, None, groups[id(row)]) for row, label in zip(labelled, labels, strict=True)],
            None,
            why_not,
        )
    from drirl_core.models.embeddings import Embedder

    embedder = Embedder(context.config.models, context.store)
    table = embedder.encode([row.prompt for row in (*labelled, *unlabelled)], context.reporter)
    router = fit_router(table[: len(labelled)], labels, context.config.seed)
    conflicts = router.conflicts(labels, settings.relabel_confidence)
    doubts = [
        ("label_conflict", f"labelled {label}, but the router gives {c.best} a probability of {c.confidence:.2f}")
        if c
        else None
        for label, c in zip(labels, conflicts, strict=True)
    ]
    routes = router.route(table[len(labelled) :], settings.router_confidence)
    abstained = [
        None if r.category else ("router_abstained", f"{_as_given(row)}; best guess {r.best} at {r.confidence:.2f}")
        for row, r in zip(unlabelled, routes, strict=True)
    ]
    chosen = {id(row): route for row, route in zip(unlabelled, routes, strict=True)}
    kept = [Kept(row, row.category or "", None, groups[id(row)]) for row in _take(labelled, doubts, rejected)]
    kept += [
        Kept(row, chosen[id(row)].best, chosen[id(row)].confidence, groups[id(row)])
        for row in _take(unlabelled, abstained, rejected)
    ]
    return kept, router, ""


def _as_given(row: PromptRow) -> str:
    return f"label {row.given!r} maps to no category" if row.given else "no label"
