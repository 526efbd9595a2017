"""Refusal against over-refusal over settings: `python -m benchmarks.trade_off [KEY=VALUE[,KEY=VALUE...] ...]`.

Each argument is one GRPO run of the demo with these settings changed; the results of earlier runs are reused. All are
judged on prompts outside the training split, as in benchmarks.validation. Writes docs/images/trade_off.png and
benchmarks/results/trade_off.json, to which later calls add.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, write
from benchmarks.validation import held_back
from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.config.strict_yaml import load_yaml
from drirl_core.graph.build import build_each
from drirl_core.graph.plan import with_ancestors
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.project import Project
from drirl_core.reporting import LogReporter
from drirl_core.stats import wilson

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "trade_off.png"


def make(project: Project) -> dict[str, Path]:
    """Build what the policy needs, and return the directories of its start and of itself."""
    nodes = with_ancestors(project.graph, ["policy_checkpoint"])
    return {node.name: artifact.path for node, artifact in build_each(project, nodes, LogReporter())}


def measure(reference: str | Path, project: Project) -> dict[str, Any]:
    """Return the rates of refusal on unsafe prompts and on safe look-alikes, with Wilson intervals."""
    config, store, row = project.config, project.store, {}
    for kind, prompts in held_back(project).items():
        if kind not in ("unsafe", "look_alike"):
            continue
        how = SamplingSettings(config.benchmarks.max_new_tokens, 0.0, config.benchmarks.batch_size, config.seed)
        replies = sample(reference, prompts, 1, how, models=config.models, store=store, reporter=LogReporter())
        labels = Counter(label_reply(reply[0].text, prompt) for reply, prompt in zip(replies, prompts, strict=True))
        rate = wilson(labels["refusal"], len(prompts))
        row[kind] = {"n": len(prompts), "rate": rate.value, "low": rate.low, "high": rate.high}
    return row


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw one point per policy; up and to the left is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        x, y = row["look_alike"], row["unsafe"]
        bars = {
            axis: [[point["rate"] - point["low"]], [point["high"] - point["rate"]]]
            for axis, point in (("xerr", x), ("yerr", y))
        }
        axes.errorbar([x["rate"]], [y["rate"]], fmt="o", elinewidth=0.8, alpha=0.9, label=row["policy"], **bars)
    axes.axvline(0.15, color="grey", linestyle=":", linewidth=1)
    axes.axhline(0.8, color="grey", linestyle=":", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="refused safe look-alikes", ylabel="refused unsafe prompts")
    unsafe, look_alikes = (rows[0][kind]["n"] for kind in ("unsafe", "look_alike"))
    axes.set_title(f"Validation prompts, n = {unsafe} unsafe and {look_alikes} look-alikes, 95 % intervals")
    axes.legend(loc="lower right", fontsize=8)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


def main() -> None:
    """Build, judge, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "settings", nargs="*", help="changes to the demo, such as policy.helpful_share=0.75,policy.kl=0"
    )
    parser.add_argument("--config", default="configs/demo.yaml")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    file = RESULTS / "trade_off.json"
    rows = {row["policy"]: row for row in json.loads(file.read_text())["rows"]} if file.is_file() else {}
    for text in ("", *arguments.settings):
        overrides = {
            key: load_yaml(value, key, lines=False)
            for key, _, value in (part.partition("=") for part in text.split(",") if part)
        }
        project = Project.load(arguments.config, overrides)
        made = make(project)
        if not text:
            rows["base"] = {"policy": "base", **measure(project.config.models.policy, project)}
            rows["SFT start"] = {"policy": "SFT start", **measure(made["sft_checkpoint"], project)}
        changed_start = any(key.startswith("sft.") for key in overrides)
        if changed_start:
            rows[f"start, {text}"] = {"policy": f"start, {text}", **measure(made["sft_checkpoint"], project)}
        rows[f"DR-IRL {text}".strip()] = {
            "policy": f"DR-IRL {text}".strip(),
            **measure(made["policy_checkpoint"], project),
        }
        write(
            "trade_off",
            {"what": "refusal of greedy replies to prompts outside the training split", "rows": list(rows.values())},
        )
        draw(list(rows.values()))


if __name__ == "__main__":
    main()
