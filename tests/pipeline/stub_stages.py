"""Stages that do in milliseconds what the real ones promise: right files, right shapes, no model.

`install` puts them in the place of the real ones, in the test process and, through `stub_worker`, in the worker. What a
run shall do wrong is named in the configuration's `name`, which decides no version: `fail=<asset>`, `crash=<asset>`,
`kill=<asset>`, `sleep=<asset>`, `weak=<asset>`, separated by blanks.
"""

import dataclasses
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.errors import DataError
from drirl_core.reporting import Plot, Table
from drirl_core.stages import STAGES, Context
from drirl_core.tables import prompt_id, write_table

SPLITS = ("train", "train", "validation", "test")
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(60_000)
_STRING = pa.string()


def install() -> None:
    """Replace every stage's function."""
    for name, stage in STAGES.items():
        STAGES[name] = dataclasses.replace(stage, function=f"stub_stages:build_{name}")


def _misbehave(context: Context) -> None:
    asset = context.out.parent.name.rpartition("-")[0]
    wanted = dict(word.partition("=")[::2] for word in context.config.name.split() if "=" in word)
    if wanted.get("fail") == asset:
        raise DataError(f"row 3 of {asset} has no prompt; mend the file and run again")
    if wanted.get("crash") == asset:
        raise ZeroDivisionError("a bug")
    if wanted.get("kill") == asset and not (context.scratch / "killed").exists():
        (context.scratch / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if wanted.get("sleep") == asset:
        (context.scratch / "pid").write_text(str(os.getpid()))
        time.sleep(120)


def _tell_gpus(context: Context) -> None:
    context.reporter.log(f"GPUs: {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}")


def _digest(context: Context) -> str:
    """Hash the inputs, so that a change travels down the graph."""
    digest = hashlib.sha256()
    for name, path in sorted(context.inputs.items()):
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.name not in ("manifest.json",))
        for file in files:
            digest.update(name.encode() + file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _write(context: Context, name: str, rows: list[dict[str, Any]], **types: pa.DataType) -> None:
    schema = pa.schema([(column, types.get(column, _STRING)) for column in rows[0]])
    write_table(context.out / name, rows, schema)


def _json(context: Context, name: str, value: Any) -> None:
    (context.out / name).write_text(json.dumps(value, sort_keys=True))


def build_prompt_pool(context: Context) -> dict[str, Any]:
    """Keep the lines of all sources that say `category: prompt`."""
    _misbehave(context)
    lines = [
        line
        for name, path in context.inputs.items()
        if not name.startswith("source_suite")
        for line in path.read_text().splitlines()
        if ": " in line
    ]
    rows = [
        {"prompt_id": prompt_id(line), "prompt": line, "category": line.partition(": ")[0], "group_id": prompt_id(line)} for line in lines
    ]
    _write(context, "prompts.parquet", rows)
    write_table(context.out / "quarantine.parquet", [], pa.schema([("reason", _STRING)]))
    _json(context, "counts.json", {"_totals": {"read": len(rows), "skipped": 0, "kept": len(rows), "quarantined": 0}})
    context.reporter.log("pool is ready")
    return {"prompts": len(rows), "share": 0.5}


def build_dataset(context: Context) -> dict[str, Any]:
    """Four rows, one a split but two for training; only the category's own prompts decide them."""
    _misbehave(context)
    _tell_gpus(context)
    import pyarrow.parquet as pq

    pool = pq.read_table(context.inputs["prompt_pool"] / "prompts.parquet").to_pylist()
    own = "|".join(row["prompt"] for row in pool if row["category"] == context.category)
    prompts = [f"{own} {i}" for i in range(4)]
    rows = [
        {
            "prompt_id": prompt_id(p), "prompt": p, "category": context.category, "demonstration": "No.", "answer": "No.", "kind": "unsafe",
            "source": "s", "licence": "l", "split": split, "origin": "pool", "group_id": prompt_id(p),
        }
        for p, split in zip(prompts, SPLITS, strict=True)
    ]  # fmt: skip
    _write(context, "rows.parquet", rows)
    return {"rows": len(rows)}


def build_completion_pool(context: Context) -> dict[str, Any]:
    """One row that names the inputs."""
    _misbehave(context)
    _write(context, "completions.parquet", [{"prompt_id": "p", "completion": _digest(context)}])
    return {"examples": Table([{"prompt": "a|b", "reward": 0.123456}])}


def build_reward_model(context: Context) -> dict[str, Any]:
    """Demonstration above completion, unless the model shall be weak."""
    _misbehave(context)
    weak = f"weak=reward_model_{context.category}" in context.config.name.split()
    rows = [
        {"prompt_id": "p", "split": "test", "policy": policy, "sample": 0, "reward": reward}
        for policy, reward in (("demonstration", -1.0 if weak else 1.0), ("base", 0.0))
    ]
    _write(context, "rewards.parquet", rows, sample=pa.int32(), reward=pa.float64())
    (context.out / "inputs.txt").write_text(_digest(context))
    (context.out / "curve.png").write_bytes(PICTURE)
    return {"accuracy": 1.0, "curve": Plot(context.out / "curve.png", "Loss by epoch")}


def build_hardness(context: Context) -> dict[str, Any]:
    """One row that names the inputs."""
    _misbehave(context)
    _write(context, "hardness.parquet", [{"prompt_id": "p", "inputs": _digest(context)}])
    return {}


def _trained(context: Context) -> dict[str, Any]:
    _misbehave(context)
    _tell_gpus(context)
    (context.out / "model.safetensors").write_text(_digest(context))
    (context.out / "training_log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "kl": 0.01}) + "\n")
    _json(context, "metrics.json", {"kl": 0.01, "last_reward": 1.0})
    for step in range(2):
        context.reporter.metrics(step, {"loss": 0.5})
    return {"kl": 0.01}


build_sft_checkpoint = build_policy_checkpoint = _trained


def build_benchmark(context: Context) -> dict[str, Any]:
    """Results whose aligned policy over-refuses, which is a warning."""
    _misbehave(context)
    _write(context, "replies.parquet", [{"reply": _digest(context)}])
    common = {"refusal": 0.9, "helpful_correct": 0.5, "helpful_correct_low": 0.4, "empty": 0, "echo": 0, "degenerate": 1, "n": 100}
    _json(context, "results.json", {"summary": [{"policy": p, "over_refusal": o, **common} for p, o in (("base", 0.0), ("dr_irl", 0.5))]})
    return {}


def _page(context: Context) -> dict[str, Any]:
    _misbehave(context)
    (context.out / "page.txt").write_text(_digest(context))
    return {}


build_balance_report = build_report = build_model_card = _page


def write_settings(folder: Path, **changes: Any) -> Path:
    """Write sources for two categories and a configuration that reads them.

    Args:
        folder: directory to fill; its sources are kept when they are there.
        changes: top-level keys of the configuration.

    Returns:
        The YAML file.
    """
    import yaml

    for name, text in (("unsafe", "insult: you\nharm: them\n"), ("helpful", "{}\n"), ("refusals", "{}\n"), ("demonstrations", "{}\n")):
        if not (folder / f"{name}.jsonl").exists():
            (folder / f"{name}.jsonl").write_text(text)
    (folder / "taxonomy.yaml").write_text("categories: [insult, harm]\n")
    settings = {
        "name": "stub",
        "root": str(folder / "artifacts"),
        "models": {"policy": "hf:stub/none", "encoder": "hf:stub/none"},  # named, and never loaded
        "prompts": {"taxonomy": "taxonomy.yaml", "sources": [{"name": "unsafe", "path": "unsafe.jsonl"}]},
        "demonstrations": {
            "quota": 4,
            "helpful": {"name": "helpful", "path": "helpful.jsonl"},
            "refusals": {"name": "refusals", "path": "refusals.jsonl"},
            "demonstrator": {"source": {"name": "demonstrations", "path": "demonstrations.jsonl"}},
        },
        "benchmarks": {"suites": [{"name": "embedded"}]},
        **changes,
    }
    path = folder / "stub.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
