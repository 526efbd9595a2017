"""The rules for reward models and trained policies."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from drirl_core.checks.reading import read_object, read_rows
from drirl_core.checks.reward_order import REWARD_ORDER
from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.completions.policies import ROUNDS, SAMPLED, SFT_START, likely_right
from drirl_core.graph.layout import Node
from drirl_core.project import Project

_TRAINING_NUMBERS = ("loss", "grad_norm", "reward", "kl")
_MIN_REWARD_SPREAD = 1e-6
_EXAMPLES = 5


def _reward_accuracy(path: Path, project: Project, node: Node) -> Verdict:
    """On held-out prompts the demonstration must be rewarded above the completions of its pool.

    Samples that the reward is not taught to put below the demonstration do not count (`rewards.negatives`, and
    `rewards.positives` where the start's own are among them; all of them for the objective `classifier`, which puts
    right samples beside it); how it orders them is judged within groups. Of the policies of further rounds the wrong
    samples alone are taught, which the table does not tell from the right ones.
    """
    config = project.config
    left_out = set(SAMPLED) if config.rewards.objective == "classifier" else set()
    if config.rewards.negatives == "likely_wrong":
        left_out.update(likely_right(str(node.category), config.sft.own_answers), ROUNDS)
    if config.rewards.positives != "demonstrations":
        left_out.add(SFT_START)
    demonstrations: dict[str, float] = {}
    completions: list[tuple[str, str, float]] = []
    for row in read_rows(path, "rewards.parquet"):
        if row["split"] != "train":
            if row["policy"] == "demonstration":
                demonstrations[row["prompt_id"]] = row["reward"]
            elif row["policy"] not in left_out:
                completions.append((row["prompt_id"], row["policy"], row["reward"]))
    won: dict[str, list[bool]] = defaultdict(list)
    for prompt, policy, reward in completions:
        if prompt in demonstrations:
            won[policy].append(demonstrations[prompt] > reward)
    pairs = sum(map(len, won.values()))
    accuracy = sum(map(sum, won.values())) / pairs if pairs else 0.0
    floor = config.checks.min_accuracy
    numbers = {
        "accuracy": accuracy,
        "min_accuracy": floor,
        "pairs": pairs,
        **{f"accuracy/{policy}": sum(wins) / len(wins) for policy, wins in sorted(won.items())},
    }
    return Verdict(
        accuracy >= floor,
        f"the demonstration wins {accuracy:.1%} of {pairs} held-out pairs, at least {floor:.0%} wanted",
        numbers,
    )


def _reward_spread(path: Path, project: Project, node: Node) -> Verdict:
    """A reward must vary, and must never be NaN."""
    rewards = [row["reward"] for row in read_rows(path, "rewards.parquet")]
    broken = sum(reward is None or not math.isfinite(reward) for reward in rewards)
    mean = sum(rewards) / len(rewards) if rewards and not broken else math.nan
    spread = (
        math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) if rewards and not broken else 0.0
    )
    numbers = {
        "rewards": len(rewards),
        "not_finite": broken,
        "mean": mean,
        "standard_deviation": spread,
        "min_standard_deviation": _MIN_REWARD_SPREAD,
    }
    return Verdict(
        spread > _MIN_REWARD_SPREAD,
        f"{len(rewards)} rewards, {broken} not finite, standard deviation {spread:.3g}",
        numbers,
    )


def _training_finite(path: Path, project: Project, node: Node) -> Verdict:
    """Neither a step's numbers nor the final metrics may be NaN or infinite."""
    log = [
        json.loads(line)
        for line in (path / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    bad = [f"{key} at step {row.get('step')}" for row in log for key in _TRAINING_NUMBERS if _broken(row.get(key))]
    bad += [
        f"{key} in metrics.json"
        for key, value in read_object(path, "metrics.json").items()
        if _broken(value) and any(n in key for n in _TRAINING_NUMBERS)
    ]
    return Verdict(
        bool(log) and not bad,
        f"{len(log)} steps, {len(bad)} numbers not finite",
        {"steps": len(log), "not_finite": len(bad), "examples": ", ".join(bad[:_EXAMPLES])},
    )


def policy_kl(path: Path, project: Project, node: Node) -> Verdict:
    """The policy stays near its reference."""
    config = project.config
    bound = config.checks.max_kl
    if config.policy.kl == 0:
        return Verdict(True, "policy.kl is 0, so the KL to the reference was not measured", {"max_kl": bound})
    kl = float(read_object(path, "metrics.json")["kl"])
    return Verdict(
        kl <= bound,
        f"mean KL to the reference in the last steps {kl:.3g} nats per token, at most {bound:g} wanted",
        {"kl": kl, "max_kl": bound},
    )


def rows_complete(path: Path, project: Project, node: Node) -> Verdict:
    """Few training rows may lose their end or be left out; an artifact of an earlier version did not count them."""
    metrics, bound = read_object(path, "metrics.json"), project.config.checks.max_cut_rows
    if "rows_cut" not in metrics:
        return Verdict(True, "rows that were too long were not counted by the version that built this")
    cut, dropped = int(metrics["rows_cut"]), int(metrics["rows_dropped"])
    total = int(metrics["rows"]) + dropped
    share = (cut + dropped) / total if total else 1.0
    numbers = {"rows": total, "cut": cut, "left_out": dropped, "share": share, "max_cut_rows": bound}
    named = {name: metrics[name] for name in ("first_cut", "first_dropped") if name in metrics}
    first = f" (first: {next(iter(named.values()))})" if named else ""
    text = f"{cut} of {total} rows lost their end and {dropped} were left out{first}, at most {bound:.0%} wanted; "
    return Verdict(share <= bound, text + "sft.max_length decides it", {**numbers, **named})


def _broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


REWARD_MODEL: tuple[Rule, ...] = (
    *REWARD_ORDER,
    Rule(
        "accuracy_floor",
        "Held-out demonstrations are rewarded above completions.",
        _reward_accuracy,
        bounds=("checks.min_accuracy",),
        measures=("accuracy",),
    ),
    Rule("reward_spread", "Rewards are finite and not constant.", _reward_spread, measures=("standard_deviation",)),
)

SFT_CHECKPOINT: tuple[Rule, ...] = (
    Rule("finite", "Losses and metrics are finite.", _training_finite),
    Rule(
        "rows_complete",
        "Few training rows were too long.",
        rows_complete,
        blocking=False,
        bounds=("checks.max_cut_rows",),
        measures=("share",),
    ),
)

POLICY_CHECKPOINT: tuple[Rule, ...] = (
    Rule("finite", "Losses, rewards and metrics are finite.", _training_finite),
    Rule("kl_bound", "The policy stays near its reference.", policy_kl, bounds=("checks.max_kl",), measures=("kl",)),
)

BASELINE: tuple[Rule, ...] = (Rule("finite", "Losses, rewards and metrics are finite.", _training_finite),)
