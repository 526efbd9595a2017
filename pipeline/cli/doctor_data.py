"""The checks of `drirl doctor` that read the user's own files: suites, prompts, demonstrations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from drirl_core.config import EMBEDDED, SourceConfig
from drirl_core.errors import DrirlError
from drirl_core.graph.layout import INBOX_SOURCE, source_path
from drirl_core.project import Project
from pipeline.cli.doctor_checks import Check

_MORE = "`drirl data` shows the reasons, each with its first rows"


def check_data(project: Project) -> Iterator[Check]:
    """Read every file of the user's own as a run would; files that are not there have their own check.

    Args:
        project: the configuration and its graph.

    Raises:
        ConfigError: the taxonomy cannot be read.
    """
    config = project.config
    for suite in config.benchmarks.suites:
        if suite.path != EMBEDDED and project.graph.sources[f"source_suite_{suite.name}"].exists():
            yield _suite(project, suite.name)
    for source in config.prompt_sources:
        if source.path != EMBEDDED and project.graph.sources[f"source_{source.name}"].exists():
            yield _prompts(project, source)
    for source, columns in (
        (config.demonstrations.helpful, ("prompt", "answer")),
        (config.demonstrations.refusals, ("refusal",)),
    ):
        if source.path != EMBEDDED and source_path(source).exists():
            yield _rows(source, columns)
    demonstrator = config.demonstrations.demonstrator
    if demonstrator.kind == "file" and source_path(demonstrator.source).exists():
        yield from _demonstrations(project)


def _suite(project: Project, name: str) -> Check:
    from drirl_core.benchmarks.suites import load_suite

    suite = next(suite for suite in project.config.benchmarks.suites if suite.name == name)
    try:
        rows = load_suite(suite)
    except DrirlError as error:
        return Check(f"suite {name}", "fail", str(error), "")
    groups = Counter(row.group for row in rows)
    return Check(f"suite {name}", "ok", ", ".join(f"{count} {group}" for group, count in groups.items()))


def _prompts(project: Project, source: SourceConfig) -> Check:
    from drirl_core.prompts.adapters import read_source
    from drirl_core.prompts.stage import check_row

    name, path = f"prompts {source.name}", source_path(source)
    all_files = f"source_{source.name}" == INBOX_SOURCE
    try:
        found = read_source(source, path, project.graph.categories, all_files=all_files)
    except DrirlError as error:
        return Check(name, "fail", str(error), "")
    problems = [(row, check_row(row, project.config.prompts.max_chars)) for row in found.rows]
    lost = [(row, problem) for row, problem in problems if problem]
    detail = f"{len(problems) - len(lost)} of {len(problems)} rows can be used"
    if not lost:
        return Check(name, "ok", detail)
    row, (reason, why) = lost[0]
    status = "fail" if len(lost) == len(problems) else "warn"
    return Check(
        name,
        status,
        f"{detail}; the first of the others is row {row.row} ({reason}: {why})",
        _MORE,
    )


def _rows(source: SourceConfig, columns: tuple[str, ...]) -> Check:
    from drirl_core.demonstrations.rows import read_columns

    try:
        rows = read_columns(source, source_path(source), columns)
    except DrirlError as error:
        return Check(f"rows of {source.name}", "fail", str(error), "")
    lost = [row.failure.detail for row in rows if row.failure]
    detail = f"{len(rows) - len(lost)} of {len(rows)} rows can be read"
    if not lost:
        return Check(f"rows of {source.name}", "ok", detail)
    status = "fail" if len(lost) == len(rows) else "warn"
    return Check(f"rows of {source.name}", status, f"{detail}; the first of the others: {lost[0]}", _MORE)


def _demonstrations(project: Project) -> Iterator[Check]:
    from drirl_core.demonstrations.coverage import demonstrations_of, read_coverage, warnings

    config = project.config
    try:
        found = demonstrations_of(config, project.graph.categories)
        uncovered = warnings(config, read_coverage(config))
    except DrirlError as error:
        yield Check("demonstrations", "fail", str(error), "")
        return
    if found.rejected:
        first = found.rejected[0].failure
        yield Check(
            "demonstrations",
            "warn",
            f"{len(found.rejected)} rows cannot be used; the first because {first.detail}",
            _MORE,
        )
    for line in uncovered:
        yield Check("demonstrations", "warn", line)
    if not found.rejected and not uncovered:
        yield Check("demonstrations", "ok", "every prompt of your own has one, as far as the files tell")
