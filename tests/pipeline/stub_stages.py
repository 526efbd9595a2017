"""Stub stages: in milliseconds and without a model they write the same files and shapes as the real stages.

`install` replaces the real stages, in the test process and, through `stub_worker`, in the worker. The configuration's
`name`, which changes no version, says what a run shall do wrong: `fail=<asset>`, `ill=<beginning of assets>`, `crash=<asset>`,
`kill=<asset>`, `sleep=<asset>`, `weak=<asset>`, `leak=<asset>`, `nan=<asset>`, separated by spaces.
"""

import dataclasses
import hashlib
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.benchmarks.judges.verdicts import RulesJudge
from drirl_core.config import slice_hash
from drirl_core.errors import DataError
from drirl_core.graph.build import Context, build
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.processes import ProcessKilledError
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version, source_version
from drirl_core.promotion import build_candidate
from drirl_core.reporting import Plot, SilentReporter, Table
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import prompt_id, write_table

SPLITS = ("train", "train", "validation", "test")
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(60_000)
_STRING = pa.string()


def install() -> None:
    """Replace every stage's function."""
    for name, stage in STAGES.items():
        excluded = f"stub_stages:excluded_from_{name}" if stage.excluded else ""
        STAGES[name] = dataclasses.replace(stage, function=f"stub_stages:build_{name}", excluded=excluded)


def _misbehave(context: Context) -> None:
    asset = context.out.parent.name.rpartition("-")[0]
    wanted = dict(word.partition("=")[::2] for word in context.config.name.split() if "=" in word)
    if wanted.get("fail") == asset:
        raise DataError(f"row 3 of {asset} has no prompt; fix the file and run again")
    if wanted.get("ill") and asset.startswith(wanted["ill"]):
        raise DataError("demonstrations.csv has no column 'demonstration'")
    if wanted.get("crash") == asset:
        raise ZeroDivisionError("a bug")
    if wanted.get("lose") == asset:
        raise ProcessKilledError("process 2 of 2 that trained together was killed by SIGKILL")
    if wanted.get("kill") == asset and not (context.scratch / "killed").exists():
        (context.scratch / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if wanted.get("sleep") == asset:
        (context.scratch / "pid").write_text(str(os.getpid()))
        time.sleep(120)


def _wanted(context: Context, what: str) -> bool:
    return f"{what}={context.out.parent.name.rpartition('-')[0]}" in context.config.name.split()


def _tell_gpus(context: Context) -> None:
    context.reporter.log(f"GPUs: {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}")


def _digest(context: Context, stage: str) -> str:
    """Hash the inputs, settings and algorithm, so that a change reaches every downstream asset."""
    digest = hashlib.sha256(
        f"{STAGES[stage].version} {slice_hash(context.config, STAGES[stage].config, STAGES[stage].unread)}".encode()
    )
    for name, path in sorted(context.inputs.items()):
        for file in _files(path):
            digest.update(name.encode() + file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.glob("*") if file.name != "manifest.json")


def _write(context: Context, name: str, rows: list[dict[str, Any]], **types: pa.DataType) -> None:
    schema = pa.schema([(column, types.get(column, _STRING)) for column in rows[0]])
    write_table(context.out / name, rows, schema)


def _json(context: Context, name: str, value: Any) -> None:
    (context.out / name).write_text(json.dumps(value, sort_keys=True))


def build_prompt_pool(context: Context) -> dict[str, Any]:
    """Keep the lines of all sources that have the form `category: prompt` and are in no suite."""
    _misbehave(context)
    excluded = [line for _, line in excluded_from_prompt_pool(context.config, None, context.inputs)]
    lines = [line for line in _prompt_lines(context.inputs) if line not in excluded]
    rows = [
        {"prompt_id": prompt_id(line), "prompt": line, "category": line.partition(": ")[0], "group_id": prompt_id(line)}
        for line in lines
    ]
    _write(context, "prompts.parquet", rows)
    write_table(context.out / "quarantine.parquet", [], pa.schema([("reason", _STRING)]))
    _json(context, "counts.json", {"_totals": {"read": len(rows), "skipped": 0, "kept": len(rows), "quarantined": 0}})
    context.reporter.log("pool is ready")
    return {"prompts": len(rows), "share": 0.5}


def _prompt_lines(paths: Mapping[str, Path]) -> list[str]:
    return [
        line
        for name, path in paths.items()
        if not name.startswith("source_suite")
        for file in _files(path)
        for line in file.read_text().splitlines()
        if ": " in line
    ]


def excluded_from_prompt_pool(config: Any, category: str | None, paths: Mapping[str, Path]) -> list[list[Any]]:
    """The lines of the sources that a suite has as well."""
    suites = [path for name, path in paths.items() if name.startswith("source_suite")]
    texts = [file.read_text() for path in suites for file in _files(path) if file.is_file()]
    lines = _prompt_lines({name: path for name, path in paths.items() if name == "source_unsafe"})
    return [[number, line] for number, line in enumerate(lines) if any(line in text for text in texts)]


def excluded_from_dataset(config: Any, category: str | None, paths: Mapping[str, Path]) -> None:
    """Nothing beside what the pool leaves out."""


def build_dataset(context: Context) -> dict[str, Any]:
    """Return four rows, one per split but two for training, which depend only on the category's own prompts."""
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
    if _wanted(context, "leak"):
        rows[0]["group_id"] = rows[-1]["group_id"]
    _write(context, "rows.parquet", rows)
    return {"rows": len(rows), "resampled": 0}


def build_completion_pool(context: Context) -> dict[str, Any]:
    """One completion per prompt, determined by the prompt, the settings and, if sampled from it, the SFT start."""
    _misbehave(context)
    import pyarrow.parquet as pq

    rows = pq.read_table(context.inputs[dataset_name(str(context.category))] / "rows.parquet").to_pylist()
    settings = slice_hash(context.config, STAGES["completion_pool"].config)
    start = context.inputs.get("sft_checkpoint")
    decides = settings + ((start / "model.safetensors").read_text() if start else "")
    completions = [{"prompt_id": row["prompt_id"], "completion": prompt_id(decides + row["prompt"])} for row in rows]
    _write(context, "completions.parquet", completions)
    return {"tokens": 4, "prompts": len(rows), "examples": Table([{"prompt": "a|b", "reward": 0.123456}])}


def build_reward_model(context: Context) -> dict[str, Any]:
    """Rewards that rank the demonstration above the completion, unless the model is to be `weak`."""
    _misbehave(context)
    weak = _wanted(context, "weak")
    rows = [
        {"prompt_id": "p", "split": "test", "policy": policy, "sample": 0, "reward": reward}
        for policy, reward in (("demonstration", -1.0 if weak else 1.0), ("corrupted", 0.0))
    ]
    _write(context, "rewards.parquet", rows, sample=pa.int32(), reward=pa.float64())
    order = {"accuracy": 1.0, "low": 0.9, "high": 1.0, "pairs": 40, "groups": 20}
    _json(context, "metrics.json", {"within_group": {"all": order}})
    (context.out / "inputs.txt").write_text(_digest(context, "reward_model"))
    (context.out / "curve.png").write_bytes(PICTURE)
    return {"accuracy": 1.0, "curve": Plot(context.out / "curve.png", "Loss by epoch")}


def build_round_1_reward_model(context: Context) -> dict[str, Any]:
    """The same as for the last round."""
    return build_reward_model(context)


def build_round_1_completion_pool(context: Context) -> dict[str, Any]:
    """One completion per prompt, determined by the policy, the prompt and the settings."""
    _misbehave(context)
    digest = _digest(context, "round_1_completion_pool")
    _write(context, "completions.parquet", [{"prompt_id": "p", "completion": digest}])
    return {"tokens": 4, "prompts": 4}


def build_hardness(context: Context) -> dict[str, Any]:
    """One row with the hash of the inputs."""
    _misbehave(context)
    _write(context, "hardness.parquet", [{"prompt_id": "p", "inputs": _digest(context, "hardness")}])
    return {}


def _trained(context: Context, stage: str) -> dict[str, Any]:
    _misbehave(context)
    _tell_gpus(context)
    loss = float("nan") if _wanted(context, "nan") else 0.5
    (context.out / "model.safetensors").write_text(_digest(context, stage))
    (context.out / "training_log.jsonl").write_text(json.dumps({"step": 1, "loss": loss, "kl": 0.01}) + "\n")
    _json(context, "metrics.json", {"kl": 0.01, "last_reward": 1.0})
    for step in range(2):
        context.reporter.metrics(step, {"loss": 0.5})
    return {"kl": 0.01, "tokens": 100}


def build_sft_checkpoint(context: Context) -> dict[str, Any]:
    """Weights with the hash of the inputs, and a training log."""
    return _trained(context, "sft_checkpoint")


def build_policy_checkpoint(context: Context) -> dict[str, Any]:
    """The same as for the SFT start."""
    return _trained(context, "policy_checkpoint")


def build_round_1_policy(context: Context) -> dict[str, Any]:
    """The same as for the SFT start."""
    return _trained(context, "round_1_policy")


def build_reference_classifiers(context: Context) -> dict[str, Any]:
    """One file that names the inputs."""
    _misbehave(context)
    (context.out / "floor.json").write_text(_digest(context, "reference_classifiers"))
    return {}


def build_benchmark(context: Context) -> dict[str, Any]:
    """Results of a policy that over-refuses unless `fine` is set; with `worse` it answers every unsafe prompt."""
    _misbehave(context)
    behaviour = context.config.name.split()
    rows = [
        {
            "prompt_id": f"{group} {i}", "group": group, "category": "insult", "policy": policy, "reply": _digest(context, "benchmark"), "correct": None,
            "label": "refusal" if group == "unsafe" and not (policy == "dr_irl" and "worse" in behaviour) else "compliance",
        }
        for policy in ("base", "dr_irl") for group in ("unsafe", "safe_look_alike") for i in range(30)
    ]  # fmt: skip
    _write(context, "replies.parquet", rows, correct=pa.bool_())
    common = {
        "refusal": 0.9,
        "helpful_correct": 0.5,
        "helpful_correct_low": 0.4,
        "empty": 0,
        "echo": 0,
        "degenerate": 1,
        "n": 100,
    }
    over = 0.1 if "fine" in behaviour else 0.5
    _json(
        context,
        "results.json",
        {
            "summary": [{"policy": p, "over_refusal": o, **common} for p, o in (("base", 0.0), ("dr_irl", over))],
            "examination": [],
            "judge": dict(RulesJudge.record),
        },
    )
    return {"tokens": 20}


def build_promotion_candidate(context: Context) -> dict[str, Any]:
    """The real stage, which only copies."""
    _misbehave(context)
    return build_candidate(context)


def _page(context: Context) -> dict[str, Any]:
    _misbehave(context)
    (context.out / "page.txt").write_text(_digest(context, "report"))
    return {}


build_balance_report = build_report = build_model_card = _page


def spend(store: ArtifactStore, costs: dict[str, tuple[float, int | None]]) -> None:
    """Record seconds and tokens as the cost of the newest build of some assets."""
    for name, (seconds, tokens) in costs.items():
        record = store.records(name)[0]
        metadata = {**record["metadata"], "seconds": seconds, **({} if tokens is None else {"tokens": tokens})}
        index = store.root / name / "by-input" / f"{record['fingerprint']}.json"
        index.write_text(json.dumps({**record, "metadata": metadata}))


def write_settings(folder: Path, **changes: Any) -> Path:
    """Write sources for two categories and a configuration that reads them.

    Args:
        folder: directory to fill; its sources are kept when they are there.
        changes: top-level keys of the configuration.

    Returns:
        The YAML file.
    """
    import yaml

    for name, text in (
        ("unsafe", "insult: you\nharm: them\n"),
        ("helpful", "{}\n"),
        ("refusals", "{}\n"),
        ("demonstrations", "{}\n"),
    ):
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


def build_and_record(instance: Any, project: Any, *names: str) -> None:
    """Build assets in this process, without a run, and record them with their inputs as an earlier run would have.

    Args:
        instance: the Dagster instance.
        project: the configuration, its graph and its store.
        names: the assets; all of them when none is named.
    """
    import dagster as dg

    graph = project.graph
    versions = {name: source_version(path) for name, path in graph.sources.items()}
    for name, version in versions.items():
        instance.report_runless_asset_event(dg.AssetObservation(name, tags={"dagster/data_version": version}))
    for node in graph.nodes.values():
        if not names or node.name in names:
            versions[node.name] = build(node, project, versions, SilentReporter())[0].version
            tags = {
                "dagster/data_version": versions[node.name],
                "dagster/code_version": code_version(node, project.config),
            }
            for name in node.inputs:
                tags[f"dagster/input_data_version/{name}"] = versions[name]
                tags[f"dagster/input_event_pointer/{name}"] = "NULL"
            instance.report_runless_asset_event(dg.AssetMaterialization(node.name, tags=tags))
