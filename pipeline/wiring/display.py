"""How a stage's metadata looks in the graph: numbers that Dagster plots over time, pictures, tables."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.graph.stages import STAGES
from drirl_core.reporting import Plot, Table
from drirl_core.store.artifacts import Artifact

_LARGEST_PICTURE = 400_000
_MOST_PICTURES = 8

Value = dict[str, Any]


def pipes_metadata(stage: str, artifact: Artifact, shown: Mapping[str, Any], reused: bool) -> dict[str, Value]:
    """Return what the graph shows for an artifact, in the form the Pipes protocol wants.

    Args:
        stage: key into `STAGES`.
        artifact: the artifact.
        shown: what the stage returned; empty when the artifact was reused, then its manifest and pictures are shown.
        reused: whether it was found rather than built.

    Returns:
        Typed metadata values by name.
    """
    metadata: dict[str, Value] = {
        "version": _value(artifact.version),
        "path": {"type": "path", "raw_value": str(artifact.path)},
        "reused": _value(reused),
    }
    if artifact.uri:
        metadata["uri"] = _value(artifact.uri)
    for name, value in (_stored(artifact) if reused else shown).items():
        metadata.setdefault(name, _value(value))
    table = STAGES[stage].table
    if table and (artifact.path / table.file).is_file():
        metadata.update(_table_facts(artifact.path / table.file, table.columns))
    return metadata


def _stored(artifact: Artifact) -> dict[str, Any]:
    pictures = sorted(name for name in artifact.manifest["files"] if name.endswith(".png"))[:_MOST_PICTURES]
    plots = {Path(name).stem: Plot(artifact.path / name, Path(name).stem.replace("_", " ")) for name in pictures}
    return {**artifact.metadata, **plots}


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
    """Return a number that Dagster can plot, or the text `nan` or `inf`; other values as they are."""
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
