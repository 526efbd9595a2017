"""`drirl report`: print the results of a run: headline, tables, path of the HTML page."""

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
        project: gives the store.
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
            f"there is no report under {store.place} yet; create one with `drirl run`, or pass the settings of "
            "another run with --config"
        )
    return show(found, console)


def show(report: Artifact, console: Console) -> Path:
    """Print a report's headline and tables and the path of its page.

    Raises:
        ArtifactError: its summary cannot be read.
    """
    from drirl_core.benchmarks.render import examination_table, judge_line, reply_table

    summary = _summary(report)
    headline = summary["headline"]
    console.print(Text(headline["sentence"], style=f"bold {_COLOURS.get(headline['tone'], 'white')}"), soft_wrap=True)
    console.print(Text(headline["detail"]), soft_wrap=True)
    for results in summary["suites"]:
        console.print()
        console.print(
            Text(f"Suite {results['suite']['name']}, {sum(results['groups'].values())} prompts"), soft_wrap=True
        )
        for table in (examination_table(results), reply_table(results)):
            console.print(Text(table), no_wrap=True, crop=False, overflow="ignore")
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
