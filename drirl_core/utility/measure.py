"""Measure a model's utility; the results are artifacts like all others, one per task."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.benchmarks.measure import rounded
from drirl_core.errors import ConfigError
from drirl_core.graph.versions import source_version
from drirl_core.models.loading import Policy, load_policy, policy_key
from drirl_core.project import Project
from drirl_core.reporting import Reporter
from drirl_core.runs.evaluation import Subject
from drirl_core.runs.measured import Measurement, measured_once
from drirl_core.store.artifacts import Artifact
from drirl_core.store.tables import write_table
from drirl_core.utility.harness import Asking, ask, harness_version
from drirl_core.utility.tasks import TASKS, Row, find_task, read_rows

VERSION = "1"
"""Raised when what is done with the harness changes, so that no earlier result is reused."""
RESULTS, ANSWERS = "results.json", "answers.parquet"

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
    ]
)
"""Columns of `answers.parquet`."""


def find_tasks(texts: Sequence[str]) -> dict[str, Path]:
    """Read tasks as a user names them.

    Args:
        texts: each `NAME=PATH`, the file of the task or a directory with it.

    Returns:
        Path by name.

    Raises:
        ConfigError: there is none, one has no path, or one is named twice.
        DataError: a task is unknown.
    """
    if not texts:
        raise ConfigError(f"no task is given; give --task NAME=PATH, of {', '.join(TASKS)}")
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        find_task(name)
        if not equals or not place:
            raise ConfigError(f"--task {text}: say where its rows are, --task {name}=PATH; nothing is fetched")
        if name in found:
            raise ConfigError(f"--task {name} is given twice; give each task once")
        found[name] = Path(place).expanduser().absolute()
    return found


def measure_utility(
    subject: Subject, tasks: Mapping[str, Path], limit: int, asking: Asking, project: Project, reporter: Reporter
) -> dict[str, Artifact]:
    """Measure a model on utility tasks.

    Args:
        subject: what is measured.
        tasks: path of the rows by name; all of them are read before a model is loaded.
        limit: rows of each file at most; 0 for all.
        asking: how the harness asks.
        project: the configuration (device, number type) and its store.
        reporter: gets progress.

    Returns:
        By task an artifact `utility_<task>`, with `results.json` and `answers.parquet`.

    Raises:
        ConfigError: the harness is not installed.
        DataError: rows cannot be read.
        ModelError: the model cannot be found or loaded.
    """
    harness = harness_version()
    rows = {name: read_rows(name, path, limit) for name, path in tasks.items()}
    models = project.config.models
    policy = functools.cache(lambda: load_policy(subject.reference, models))  # only where something is measured
    how = {key: value for key, value in dataclasses.asdict(asking).items() if key != "batch_size"}
    settings = [policy_key(subject.reference, models), harness, limit, how]
    made = {}
    for name, path in tasks.items():
        inputs = {f"source_{name}": source_version(path), **subject.inputs}
        asset, known = f"utility_{name}", f"{name}: measured before"
        what = Measurement(asset, VERSION, settings, inputs, subject.label, known)
        made[name] = measured_once(
            what,
            project,
            reporter,
            lambda own, name=name: _write(policy(), name, rows[name], asking, own.out, reporter),
        )
    return made


def _write(
    policy: Policy, name: str, rows: Sequence[Row], asking: Asking, out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Ask the harness and write its answers; return the metadata of the artifact."""
    reporter.log(f"{TASKS[name].title}: {len(rows)} rows")
    with tempfile.TemporaryDirectory() as folder:
        figures, answers = ask(policy, name, rows, asking, Path(folder))
    how = {"harness": f"lm-eval {harness_version()}", "title": TASKS[name].title, "chat_template": asking.chat}
    text = json.dumps(rounded({**figures, **how}), indent=1, sort_keys=True, allow_nan=False) + "\n"
    (out / RESULTS).write_text(text, encoding="utf-8")
    write_table(out / ANSWERS, answers, SCHEMA)
    return {"rows": len(rows), "truncated": figures["truncated"]}
