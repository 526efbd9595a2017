"""How the metadata of a stage is shown in Dagster: key figures in words, pictures and tables, then every raw number.

Dagster shows metadata in the order in which it was reported, and short Markdown at once; longer Markdown, such as a
picture, behind a button. Numbers are plotted over time.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.graph.figures import key_figures, rounded
from drirl_core.graph.stages import STAGES
from drirl_core.reporting import Plot, Table
from drirl_core.store.artifacts import Artifact

KEY_FIGURES = "key figures"
_LARGEST_PICTURE = 400_000
_MOST_PICTURES = 8

Value = dict[str, Any]


def pipes_metadata(stage: str, artifact: Artifact, shown: Mapping[str, Any], reused: bool) -> dict[str, Value]:
    """Return what Dagster shows for an artifact, in the format of the Pipes protocol.

    Args:
        stage: key into `STAGES`.
        artifact: the artifact.
        shown: what the stage returned; empty when the artifact was reused, then its manifest and pictures are shown.
        reused: whether the artifact was reused instead of built.

    Returns:
        Typed metadata values by name: key figures, pictures and tables first.
    """
    reported = _stored(artifact) if reused else shown
    metadata: dict[str, Value] = {}
    figures = key_figures(reported)
    if figures:
        metadata[KEY_FIGURES] = {"type": "md", "raw_value": figure_table(figures)}
    for kind in (Plot, Table):
        metadata |= {name: _value(value) for name, value in reported.items() if isinstance(value, kind)}
    metadata |= {
        "version": _value(artifact.version),
        "path": {"type": "path", "raw_value": str(artifact.path)},
        "reused": _value(reused),
    }
    if artifact.uri:
        metadata["uri"] = _value(artifact.uri)
    for name, value in reported.items():
        metadata.setdefault(name, _value(value))
    table = STAGES[stage].table
    if table and (artifact.path / table.file).is_file():
        metadata.update(_table_facts(artifact.path / table.file, table.columns))
    return metadata


def check_metadata(rule: Rule, verdict: Verdict) -> dict[str, Any]:
    """Return what Dagster shows for a check: what it measured as numbers, which are plotted, all else as text.

    A plot of a bound or of a count that never changes would be a straight line, or one point.

    Args:
        rule: the rule; it names what it measures.
        verdict: its verdict with all numbers.
    """
    found = verdict.metadata
    measured = {name: finite(value) for name, value in found.items() if rule.measured(name)}
    bounds = {bound.rpartition(".")[2] for bound in rule.bounds}
    others = {name: _as_text(value, name in bounds) for name, value in found.items() if name not in measured}
    return {**measured, **others}


def _as_text(value: Any, exact: bool) -> Any:
    """Write a number as text, rounded unless it is a bound; other values stay."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(value) if exact else rounded(value)


def figure_table(figures: Sequence[tuple[str, str]]) -> str:
    """Return key figures as a Markdown table without a heading, short enough for Dagster to show it at once.

    The number stands first: a long path in another row makes the column wider than the page, which cuts its right end.
    """
    rows = [f"| **{_cell(value)}** | {_cell(words)} |" for words, value in figures]
    return "\n".join(["| | |", "| ---: | --- |", *rows])


def _stored(artifact: Artifact) -> dict[str, Any]:
    """Return numbers and pictures of an artifact as its stage reported them.

    Manifests of earlier versions do not list the pictures; they are named by their files then, unless a number has that
    name.
    """
    numbers, files = artifact.metadata, artifact.manifest["files"]
    listed = artifact.manifest.get("plots")
    if listed is not None:
        plots = {name: Plot(artifact.path / file, caption) for name, (file, caption) in listed.items()}
    else:
        pictures = {Path(name).stem: name for name in sorted(files) if name.endswith(".png")}
        plots = {
            f"{stem}_picture" if stem in numbers else stem: Plot(artifact.path / name, stem.replace("_", " "))
            for stem, name in pictures.items()
        }
    return {**dict(list(plots.items())[:_MOST_PICTURES]), **numbers}


def _value(value: Any) -> Value:
    if isinstance(value, bool):
        return {"type": "bool", "raw_value": value}
    if isinstance(value, int):
        return {"type": "int", "raw_value": value}
    if isinstance(value, float):
        return {"type": "float" if math.isfinite(value) else "text", "raw_value": finite(value)}
    if isinstance(value, Plot):
        return {"type": "md", "raw_value": _picture(value)}
    if isinstance(value, Table):
        return {"type": "md", "raw_value": markdown_table(value.rows)}
    if isinstance(value, Mapping | list | tuple):
        return {"type": "json", "raw_value": json.loads(json.dumps(value, default=str))}
    return {"type": "text", "raw_value": str(value)}


def finite(value: Any) -> Any:
    """Return a number that Dagster can plot, or the text `nan` or `inf`; other values unchanged."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _picture(plot: Plot) -> str:
    try:
        data = plot.path.read_bytes()
    except OSError:
        return f"{plot.caption}: {plot.path} cannot be read"
    if len(data) > _LARGEST_PICTURE:
        return f"{plot.caption}: see {plot.path} ({len(data) / 1e6:.1f} MB, too large to show here)"
    return f"![{plot.caption}](data:image/png;base64,{base64.b64encode(data).decode()})\n\n{plot.caption}"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table whose columns are the keys in order of first appearance."""
    if not rows:
        return "(no rows)"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(map(_cell, columns)) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _table_facts(path: Path, meanings: Mapping[str, str]) -> dict[str, Value]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = [
            {"name": field.name, "type": str(field.type), "description": meanings.get(field.name)}
            for field in file.schema_arrow
        ]
        return {
            "dagster/row_count": _value(file.metadata.num_rows),
            "dagster/column_schema": {"type": "table_schema", "raw_value": {"columns": columns}},
        }
