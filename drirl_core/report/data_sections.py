"""The data and the cost of a run: balance, seconds by stage, the setting, the limits."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core import __version__
from drirl_core.benchmarks.judge_words import judge_line, measured_errors
from drirl_core.config import Config, PolicyConfig
from drirl_core.demonstrations.safety_policy import texts_of
from drirl_core.graph.layout import Graph
from drirl_core.redaction import redact_text
from drirl_core.report.cells import category_name
from drirl_core.report.drawing import Series
from drirl_core.report.plots import horizontal_bars
from drirl_core.report.reading import read_json

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "sentence-transformers",
    "scikit-learn",
    "numpy",
    "pyarrow",
    "dagster",
)


def balance_section(folder: Path, order: Sequence[str]) -> dict[str, Any]:
    """Return rows per category before and after balancing.

    Args:
        folder: directory of `balance_report`.
        order: categories in the order to show them.

    Raises:
        ArtifactError: `balance.json` is missing.
    """
    found = read_json(folder, "balance.json", "balance_report")
    counted: Mapping[str, Mapping[str, Any]] = found["categories"]
    categories = {
        name: counted[name] for name in [*(n for n in order if n in counted), *(n for n in counted if n not in order)]
    }
    columns = [
        c
        for c in ("raw", "kept", "rows", "pool", "fill_up", "resampled", "train", "validation", "test")
        if all(c in row for row in categories.values())
    ]
    names = {
        "raw": "prompts found",
        "kept": "after cleaning",
        "rows": "balanced",
        "pool": "from the pool",
        "fill_up": "written to fill up",
    }
    before, after = found["before"], found["after"]
    series = [
        Series(label, [float(row[key]) for row in categories.values()], colour=colour)
        for key, label, colour in (("raw", "before", "pale"), ("rows", "after", "accent"))
    ]
    text = (
        f"Largest category over smallest: {_ratio(before['imbalance_ratio'])} before, "
        f"{_ratio(after['imbalance_ratio'])} after. "
        f"Normalised entropy (1 is even): {before['normalised_entropy']:.3f} before, "
        f"{after['normalised_entropy']:.3f} after. "
        f"Quota: {found['quota'] or 'every row'}{' per category' if found['quota'] else ' once'}"
    )
    own = found.get("category_quota", {})  # left out where no category has one
    text += "".join(f"; {category_name(name)}: {rows or 'every row once'}" for name, rows in own.items()) + "."
    if "helpful" in found:
        text += f" Beside these, {found['helpful']['rows']} harmless rows."
    return {
        "text": text,
        "head": ["category", *(names.get(c, c) for c in columns)],
        "rows": [[category_name(name), *(str(row[c]) for c in columns)] for name, row in categories.items()],
        "charts": [
            horizontal_bars(
                "Rows per category", [category_name(n) for n in categories], series, axis="rows", percent=False
            )
        ],
        "before": before,
        "after": after,
    }


def coverage_text(datasets: Mapping[str, Path]) -> str:
    """Say how many prompts of the pool were not used because no demonstration covers them; empty when all were.

    Args:
        datasets: directories of the data sets of the harm categories, by category.

    Raises:
        ArtifactError: `counts.json` of one cannot be read.
    """
    counts = {
        name: read_json(path, "counts.json", f"safety_dataset_{name}")
        for name, path in datasets.items()
        if name and (path / "counts.json").is_file()
    }
    missing = {name: found.get("without_demonstration", 0) for name, found in counts.items()}
    if not sum(missing.values()):
        return ""
    prompts, filled = (sum(found.get(key, 0) for found in counts.values()) for key in ("pool_prompts", "fill_up"))
    listed = ", ".join(f"{category_name(name)} {n}" for name, n in missing.items() if n)
    text = f" {sum(missing.values())} of {prompts} prompts have no demonstration and were not used ({listed})"
    return f"{text}; {filled} rows have prompts that came with the demonstrations." if filled else f"{text}."


def safety_policy_section(config: Config) -> dict[str, Any]:
    """Return the texts of the safety policy by category, and who was told them; empty without one.

    Raises:
        ConfigError: the safety policy cannot be read.
    """
    texts = texts_of(config)
    if not texts:
        return {}
    kind, judges = config.demonstrations.demonstrator.kind, (config.benchmarks.judge, config.benchmarks.second_judge)
    readers = ["the demonstrator"] * (kind != "file") + ["the llm judge"] * ("llm" in judges)
    told = f"Told to {' and to '.join(readers)}" if readers else "Shown here alone: no model was told it"
    return {
        "summary": f"Safety policy: what is not answered, what is answered, how to refuse ({len(texts)} categories)",
        "text": f"{told}. A category without a text here is left to the model.",
        "rows": [[category_name(category), text] for category, text in texts.items()],
    }


def time_section(manifests: Mapping[str, Mapping[str, Any]], graph: Graph) -> dict[str, Any]:
    """Return seconds by stage, from the manifests of everything the report was made from.

    Args:
        manifests: manifest by asset name.
        graph: which asset belongs to which stage.
    """
    stages: dict[str, list[float]] = {}
    for node in graph.nodes.values():
        seconds = manifests.get(node.name, {}).get("metadata", {}).get("seconds")
        if isinstance(seconds, int | float):
            stages.setdefault(node.stage, []).append(float(seconds))
    if not stages:
        return {"text": "The upstream artifacts do not say how long they took.", "charts": []}
    total = sum(map(sum, stages.values()))
    longest = max(stages, key=lambda name: sum(stages[name]))
    labels = [
        f"{category_name(name)}{f' ({len(found)} assets)' if len(found) > 1 else ''}" for name, found in stages.items()
    ]
    chart = horizontal_bars(
        "Seconds by stage",
        labels,
        [Series("seconds", [sum(s) for s in stages.values()])],
        axis="seconds",
        percent=False,
    )
    text = (
        f"{_clock(total)} in all, most of it ({sum(stages[longest]) / total if total else 0:.0%}) in "
        f"{category_name(longest)}. Each asset counts with the build that made the version used here, whenever that "
        "was; rows taken from the cache cost nothing."
    )
    return {"text": text, "charts": [chart]}


def grpo_line(policy: PolicyConfig) -> str:
    """Describe the size of the policy's training in one line."""
    return (
        f"{policy.steps} steps of {policy.prompts_per_step} prompts x {policy.num_generations} completions, "
        f"KL weight {policy.kl:g}, {policy.helpful_share:.0%} harmless prompts"
    )


def setting_rows(
    config: Config, results: Sequence[Mapping[str, Any]], manifests: Mapping[str, Mapping[str, Any]]
) -> list[list[str]]:
    """Return the facts a reader needs to judge or repeat the numbers."""
    policy = config.policy
    rows = [
        ["base model", redact_text(config.models.policy)],
        ["sentence encoder", redact_text(config.models.encoder)],
        ["start of the policy", "SFT checkpoint" if policy.start == "sft" else "the base model"],
        ["seed", config.shown_seed],
        ["GRPO", grpo_line(policy)],
        [
            "alpha",
            f"{config.hardness.combine}, refreshed every {config.hardness.refresh}"
            if config.hardness.refresh != "once"
            else f"{config.hardness.combine}, computed once",
        ],
    ]
    for found in results:
        groups = ", ".join(f"{n} {category_name(group)}" for group, n in found["groups"].items())
        rows.append(
            [
                f"suite {found['suite']['name']}",
                f"version {found['suite']['version']}, licence {found['suite']['licence']}: {groups}",
            ]
        )
    rows += [
        [
            "decoding",
            f"greedy, at most {results[0]['decoding']['max_new_tokens']} tokens; drafts cut off before judging",
        ],
        ["judge", judge_line(results[0]).removeprefix("Judge ").rstrip(".").replace("`", "")],
        ["machine of this page", f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"],
    ]
    version = manifests.get("policy_checkpoint", {}).get("version")
    return [*rows, ["policy checkpoint", str(version)]] if version else rows


def software_rows() -> list[list[str]]:
    """Return the versions of what the numbers depend on."""
    rows = [["drirl", __version__], ["Python", platform.python_version()]]
    for name in PACKAGES:
        try:
            rows.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            continue
    return rows


def limits(config: Config, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the numbers do not show, with this run's own sizes."""
    judge = results[0]["judge"]
    smallest = min((r["n"] for found in results for r in found["rates"] if r["category"] != "all"), default=0)
    lines = [
        f"One seed ({config.shown_seed}). Training again with another seed gives other weights; the intervals cover "
        "the choice of prompts, not the choice of seed.",
        f"Refusals are counted by the {judge['judge']} judge, {_error(results[0])}",
        "A refusal is not yet safety, and compliance is not yet harm: over-refusal, correct helpful replies and "
        "degenerate replies are shown beside refusal for that reason.",
        f"A category has as few as {smallest} prompts in a suite: read its interval, not its bar." if smallest else "",
        "No attack was tried against the policy unless a suite of attacks is listed above.",
        "The reward models learned from demonstrations of one style; their accuracy on other styles is not on "
        "this page.",
    ]
    return [line for line in lines if line]


def _error(results: Mapping[str, Any]) -> str:
    judge = results["judge"]
    known = measured_errors(results, judge)
    if not known:
        return "whose error on labelled replies was not measured."
    ours = judge["judge"] != "llm"
    english = "; it reads English only and does not judge whether an answer is harmful" if ours else ""
    return f"which is wrong on about {known[0].wrong.value:.1%} of {'human-' * ours}labelled replies{english}."


def _ratio(value: float | None) -> str:
    return "without bound (a category is empty)" if value is None else f"{value:.2f}"


def _clock(seconds: float) -> str:
    rounded = round(seconds)
    if rounded < 60:
        return f"{seconds:.1f} s"
    return (
        f"{rounded // 60} min {rounded % 60:02d} s"
        if rounded < 3600
        else f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
    )
