"""The results of a run in the terminal: headline, table, where the page is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from drirl_core.errors import ArtifactError
from drirl_core.project import Project
from drirl_core.store.artifacts import Artifact

_COLOURS = {"win": "green", "none": "yellow", "loss": "red"}


def show_newest(project: Project, console: Console) -> Path:
    """Print the newest report of the artifact store.

    Args:
        project: names the store.
        console: where to print.

    Returns:
        The HTML page.

    Raises:
        ArtifactError: there is no report yet.
    """
    store = project.store
    found = store.latest("report")
    if found is None:
        raise ArtifactError(
            f"there is no report under {store.place} yet; make one with `drirl run`, or name another run's settings with --config"
        )
    return show(found, console)


def show(report: Artifact, console: Console) -> Path:
    """Print a report's headline and tables and the path of its page.

    Raises:
        ArtifactError: its summary cannot be read.
    """
    from drirl_core.benchmarks.render import judge_line, summary_table

    summary = _summary(report)
    headline = summary["headline"]
    console.print(Text(headline["sentence"], style=f"bold {_COLOURS.get(headline['tone'], 'white')}"), soft_wrap=True)
    console.print(Text(headline["detail"]), soft_wrap=True)
    for results in summary["suites"]:
        console.print()
        console.print(
            Text(f"Suite {results['suite']['name']}, {sum(results['groups'].values())} prompts"), soft_wrap=True
        )
        console.print(Text(summary_table(results)), no_wrap=True, crop=False, overflow="ignore")
    console.print(Text(judge_line(summary["suites"][0]), style="dim"), soft_wrap=True)
    page = report.path / "report.html"
    console.print()
    console.print(Text(f"Report: {page}"), soft_wrap=True)
    return page


def _summary(report: Artifact) -> Mapping[str, Any]:
    path = report.path / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); delete {report.path} and run `drirl run` again"
        ) from error
