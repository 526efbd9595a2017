"""The checks of `drirl doctor` that read the user's own files as a run will: what it would lose or not use, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from drirl_core.config import EMBEDDED, SourceConfig, SuiteConfig
from drirl_core.errors import DrirlError
from drirl_core.graph.layout import source_path
from drirl_core.project import Project
from drirl_core.prompts.losses import SourceLosses, losses_by_source
from pipeline.cli.doctor_checks import Check

_FIX = "fix the rows, or how the file is read (columns, adapter); a run puts them into quarantine"
_MORE = "`drirl data` shows the first rows of each reason"


def check_data(project: Project) -> Iterator[Check]:
    """Read every file of prompts, demonstrations, refusals and suites that the user gave; shipped files are sound.

    Files that do not exist are left to the check of the sources.

    Args:
        project: names the files, the categories and the bound on lost rows.
    """
    config = project.config
    demonstrations = config.demonstrations
    for source in config.prompt_sources:
        yield from _checked(source, lambda source=source: _prompts(project, source))
    yield from _checked(demonstrations.helpful, lambda: _answers(project, demonstrations.helpful, ("prompt", "answer")))
    yield from _checked(demonstrations.refusals, lambda: _answers(project, demonstrations.refusals, ("refusal",)))
    if demonstrations.demonstrator.kind == "file":
        source = demonstrations.demonstrator.source
        same = source.name in {one.name for one in config.prompts.sources}
        yield from _checked(source, lambda: _demonstrations(project), "demonstrations in" if same else "rows of")
    for suite in config.benchmarks.suites:
        if suite.path != EMBEDDED and Path(suite.path).exists():
            yield _told(f"rows of suite {suite.name}", lambda suite=suite: _suite(suite))
    yield from _coverage(project)


def _checked(source: SourceConfig, look: Callable[[], Check], what: str = "rows of") -> Iterator[Check]:
    """Look at a file of the user's own; the same one may hold prompts and demonstrations, and is looked at as each."""
    if source.path != EMBEDDED and source_path(source).exists():
        found = _told("", look)
        yield dataclasses.replace(found, name=f"{what} {source.name}")


def _told(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except DrirlError as error:
        return Check(name, "fail", str(error))


def _prompts(project: Project, source: SourceConfig) -> Check:
    from drirl_core.prompts.adapters import read_source
    from drirl_core.prompts.pool import Rejected
    from drirl_core.prompts.stage import check_row

    config = project.config
    folder = source not in config.prompts.sources
    found = read_source(source, source_path(source), project.graph.categories, all_files=folder)
    problems = [(row, check_row(row, config.prompts.max_chars)) for row in found.rows]
    lost = [Rejected(row, *problem).loss for row, problem in problems if problem]
    skipped = f", {found.skipped} more are marked as no unsafe prompt" if found.skipped else ""
    kept = len(problems) - len(lost)
    return _verdict(project, kept, [*losses_by_source({source.name: kept}, lost).values()], skipped)


def _answers(project: Project, source: SourceConfig, needed: tuple[str, ...]) -> Check:
    from drirl_core.demonstrations.rows import losses_of, read_columns

    optional = ("kind", "licence", "style", "twin_of") if "answer" in needed else ()
    rows = read_columns(source, source_path(source), needed, optional)
    failures = [row.failure for row in rows]
    return _verdict(project, failures.count(None), losses_of(source, rows, failures))


def _demonstrations(project: Project) -> Check:
    from drirl_core.demonstrations.demonstrators import FileDemonstrator

    settings = project.config.demonstrations.demonstrator
    found = FileDemonstrator(settings, source_path(settings.source), project.graph.categories)
    return _verdict(project, found.usable, found.losses)


def _suite(suite: SuiteConfig) -> Check:
    from drirl_core.benchmarks.suites import load_suite

    rows = load_suite(suite)
    groups = dict.fromkeys(row.group for row in rows)
    counts = ", ".join(f"{sum(row.group == group for row in rows)} {group}" for group in groups)
    return Check(f"rows of suite {rows[0].suite}", "ok", counts)


def _verdict(project: Project, kept: int, losses: Sequence[SourceLosses], more: str = "") -> Check:
    """Return what was found; whoever looked names it."""
    bound = project.config.checks.max_lost_fraction
    if not losses:
        fix = "" if kept else "check the column that says so, or take the file out of the sources"
        return Check("", "ok" if kept else "warn", f"{kept} can be used{more}", fix)
    (loss,) = losses
    if loss.share > bound:
        fix = f"{_FIX}, and stops: checks.max_lost_fraction is {bound}; {_MORE}"
        return Check("", "fail", f"{loss}{more}", fix)
    return Check("", "warn", f"{loss}{more}", f"{_FIX}; {_MORE}")


def _coverage(project: Project) -> Iterator[Check]:
    """Compare the user's own prompts with the file of demonstrations, where every file of both is there."""
    from drirl_core.demonstrations.coverage import read_coverage, warnings

    config = project.config
    if not all(source_path(source).exists() for source in _compared(project)):
        return
    try:
        found = read_coverage(config)
    except DrirlError as error:
        yield Check("demonstrations", "fail", str(error))
        return
    uncovered = warnings(config, found)
    for line in uncovered:
        yield Check("demonstrations", "warn", line)
    if found and not uncovered:
        yield Check("demonstrations", "ok", "every prompt of your own has one, as far as the files tell")


def _compared(project: Project) -> Iterator[SourceConfig]:
    """Yield the files that have to be there; a drop folder into which nothing was dropped may be missing."""
    config = project.config
    yield from config.prompts.sources
    if config.demonstrations.demonstrator.kind == "file":
        yield config.demonstrations.demonstrator.source
