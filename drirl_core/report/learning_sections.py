"""What was learned: training curves, reward models and hardness, from the artifacts' own tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.completions.policies import SAMPLED
from drirl_core.policy.spread import SHARE
from drirl_core.report.category_curves import category_section, number_at
from drirl_core.report.cells import EMPTY, Cell, category_name, number, share
from drirl_core.report.drawing import Series
from drirl_core.report.plots import histogram, horizontal_bars, lines
from drirl_core.report.reading import read_json, read_lines, read_rows
from drirl_core.stats import bootstrap_mean, pair_calibration

_CURVES = (
    ("reward", "Reward", "mean reward", False),
    ("kl", "KL to the start", "nats per token", True),
    ("entropy", "Entropy", "nats", True),
    ("frac_reward_zero_std", "Groups without variance", "share of groups", True),
    (SHARE, "Groups below policy.min_spread", "share of groups", True),
    ("completions/mean_length", "Completion length", "tokens", True),
    ("alpha/std", "Spread of alpha", "standard deviation", True),
)
_KIND_ORDER = ("unsafe", "look_alike", "general")
_RESAMPLES = 2000
_Z = 1.959964


def training_section(policy: Path, sft: Path | None) -> dict[str, Any]:
    """Return the curves of the policy's training log and a sentence on its start.

    Args:
        policy: directory of `policy_checkpoint`.
        sft: directory of `sft_checkpoint`, or None when the policy started from the base model.

    Raises:
        ArtifactError: the log or the metrics are missing.
    """
    log = read_lines(policy, "training_log.jsonl", "policy_checkpoint")
    metrics = read_json(policy, "metrics.json", "policy_checkpoint")
    text = f"GRPO with dynamic reward scaling, {len(log)} steps. "
    if sft is not None:
        start = read_json(sft, "metrics.json", "sft_checkpoint")
        loss = f"loss {start['first_loss']:.2f} to {start['last_loss']:.2f}"
        text += f"It starts from supervised fine-tuning on {start['rows']} rows ({start['steps']} steps, {loss}). "
    text += (
        "A group whose completions all get the same reward has zero advantages; its share should stay well below 1. "
    )
    text += "Gap: reward of the demonstration minus reward of the completion."
    steps = [float(row["step"]) for row in log]
    said, validated = _validation(policy)
    text += said
    drawn = validated + [_curve(log, steps, *curve) for curve in _CURVES if any(curve[0] in row for row in log)]
    return {"text": text, "charts": drawn, "by_category": category_section(log, steps), "metrics": metrics}


def _validation(policy: Path) -> tuple[str, list[Any]]:
    """Return a sentence on the published checkpoint and the curve it was chosen by; nothing without validation."""
    if not (policy / "validation.json").is_file():
        return "", []
    found = read_json(policy, "validation.json", "policy_checkpoint")
    points = found["points"]
    curves = [
        Series(label, [float(point[kind]) for point in points])
        for kind, label in (
            ("unsafe", "unsafe refused"),
            ("look_alike", "look-alikes refused"),
            ("unusable", "unusable replies"),
        )
    ]
    chart = lines(
        "Replies to validation prompts",
        [float(point["step"]) for point in points],
        curves,
        axes=("step", "share of replies"),
        cover=(0.0, 1.0),
    )
    chosen = "the start itself, as no later one does better" if found["chosen"] == 0 else f"step {found['chosen']}"
    return f" Published is {chosen}: the largest distance between the refused shares of validation prompts.", [chart]


def _curve(
    log: Sequence[Mapping[str, Any]], steps: Sequence[float], key: str, title: str, unit: str, zero: bool
) -> Any:
    values = [number_at(row, key) for row in log]
    return lines(
        title, steps, [Series(title, values, colour=ALIGNED)], axes=("step", unit), cover=(0.0,) if zero else ()
    )


def reward_section(models: Mapping[str, Path]) -> dict[str, Any]:
    """Return order within groups, accuracy and calibration of the reward models on held-out prompts.

    Args:
        models: directory of each reward model by category.

    Raises:
        ArtifactError: a table is missing.
    """
    pairs = {name: held_out_pairs(path, name) for name, path in models.items()}
    policies = sorted({p for found in pairs.values() for _, p, _ in found}, key=lambda p: (p not in SAMPLED, p))
    within = {name: _within_group(path, name) for name, path in models.items()}
    kinds = sorted({kind for found in within.values() for kind in found["by_kind"]}, key=_KIND_ORDER.index)
    rows, accuracy = [], {}
    for name, found in pairs.items():
        overall = accuracy_of(found)
        accuracy[name] = {
            "accuracy": overall[0],
            "low": overall[1],
            "high": overall[2],
            "prompts": overall[3],
            "pairs": len(found),
            "within_group": within[name],
        }
        rows.append(
            [
                category_name(name),
                *(_within_group_cell(within[name]["by_kind"].get(kind)) for kind in kinds),
                f"{overall[3]} / {len(found)}",
                _accuracy_cell(found),
                *(_accuracy_cell([x for x in found if x[1] == p]) for p in policies),
            ]
        )
    every = [gap for found in pairs.values() for _, _, gap in found]
    error, bins = pair_calibration(every)
    return {
        "text": "Within groups: among the policy's own samples of one prompt outside the training split, the share of "
        "pairs in which the right completion (a refusal of an unsafe prompt, an answer to a harmless one) gets a "
        "higher reward than the wrong one. GRPO uses nothing else of a reward. Then the share of held-out pairs in "
        "which the demonstration gets a higher reward than the completion.",
        "head": [
            "reward model",
            *(f"within groups: {category_name(kind)}" for kind in kinds),
            "prompts / pairs",
            "all",
            *(f"against {category_name(p)}" for p in policies),
        ],
        "rows": rows,
        "note": "Wilson 95 % intervals over prompts, because completions of one prompt are not independent. Base and "
        "sft are sampled completions; the others were made to contrast. Within groups the interval counts groups, "
        "n is pairs / groups.",
        "charts": [_accuracy_chart(pairs), _calibration_chart(bins, error)] if every else [],
        "probes": probe_rows(models),
        "accuracy": accuracy,
        "calibration_error": error,
    }


def _within_group(folder: Path, name: str) -> dict[str, Any]:
    """Return what a reward model's own report says about the order within groups; nothing without a report."""
    if not (folder / "metrics.json").is_file():
        return {"by_kind": {}}
    return read_json(folder, "metrics.json", f"reward_model_{name}").get("within_group", {"by_kind": {}})


def _within_group_cell(row: Mapping[str, Any] | None) -> Cell:
    if not row or row["accuracy"] is None:
        return dict(EMPTY)
    return share({**row, "rate": row["accuracy"], "n": f"{row['pairs']} / {row['groups']}"}, digits=0)


def probe_rows(models: Mapping[str, Path]) -> list[list[Any]]:
    """Return, for each probe of the reward models' own reports, its mean over the models and the worst model.

    Args:
        models: directory of each reward model by category; one without `metrics.json` is left out.
    """
    found: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for name, path in models.items():
        metrics = read_json(path, "metrics.json", f"reward_model_{name}") if (path / "metrics.json").is_file() else {}
        for probe, row in metrics.get("probes", {}).items():
            if isinstance(row.get("accuracy"), int | float) and row.get("n"):
                found[probe].append((float(row["accuracy"]), name, int(row["n"])))
    rows = []
    for probe, own in found.items():
        worst, where, _ = min(own)
        mean = sum(accuracy for accuracy, _, _ in own) / len(own)
        rows.append(
            [
                category_name(probe),
                f"{100 * mean:.1f} %",
                f"{100 * worst:.1f} % ({category_name(where)})",
                str(sum(n for *_, n in own)),
            ]
        )
    return rows


def held_out_pairs(folder: Path, name: str) -> list[tuple[str, str, float]]:
    """Return (prompt_id, policy, gap) of every held-out completion of a reward model.

    Raises:
        ArtifactError: the table is missing.
    """
    rows = read_rows(folder, "rewards.parquet", ("prompt_id", "split", "policy", "reward"), f"reward_model_{name}")
    test = [row for row in rows if row["split"] == "test"]
    demonstrations = {row["prompt_id"]: float(row["reward"]) for row in test if row["policy"] == "demonstration"}
    return [
        (row["prompt_id"], row["policy"], demonstrations[row["prompt_id"]] - float(row["reward"]))
        for row in test
        if row["policy"] != "demonstration" and row["prompt_id"] in demonstrations
    ]


def accuracy_of(pairs: Sequence[tuple[str, str, float]]) -> tuple[float, float, float, int]:
    """Return the mean over prompts of the share of pairs won, its Wilson 95 % interval over prompts, and the prompts.

    Args:
        pairs: (prompt_id, policy, gap); a gap above 0 is won.
    """
    won: dict[str, list[bool]] = defaultdict(list)
    for prompt, _, gap in pairs:
        won[prompt].append(gap > 0)
    n = len(won)
    if n == 0:
        return (math.nan, 0.0, 1.0, 0)
    rate = sum(sum(w) / len(w) for w in won.values()) / n
    spread = 1 + _Z**2 / n
    middle = (rate + _Z**2 / (2 * n)) / spread
    half = _Z * math.sqrt(max(0.0, rate * (1 - rate)) / n + _Z**2 / (4 * n**2)) / spread
    return (rate, max(0.0, middle - half), min(1.0, middle + half), n)


def _accuracy_cell(pairs: Sequence[tuple[str, str, float]]) -> Cell:
    if not pairs:
        return dict(EMPTY)
    rate, low, high, n = accuracy_of(pairs)
    return share({"rate": rate, "low": low, "high": high, "n": n}, digits=0)


def _accuracy_chart(pairs: Mapping[str, Sequence[tuple[str, str, float]]]) -> Any:
    series = []
    for title, sampled, colour in (("against samples", True, "accent"), ("against contrast", False, "pale")):
        found = [accuracy_of([x for x in own if (x[1] in SAMPLED) == sampled]) for own in pairs.values()]
        if any(n for *_, n in found):
            series.append(
                Series(
                    title,
                    [f[0] for f in found],
                    [f[1] if f[3] else math.nan for f in found],
                    [f[2] if f[3] else math.nan for f in found],
                    colour,
                )
            )
    return horizontal_bars(
        "Held-out accuracy",
        [category_name(name) for name in pairs],
        series,
        axis="share of pairs won, with 95 % intervals",
    )


def _calibration_chart(bins: Sequence[Mapping[str, float]], error: float) -> Any:
    x = [row["confidence"] for row in bins]
    series = [
        Series("measured", [row["accuracy"] for row in bins], colour="accent"),
        Series("perfect", x, colour="pale"),
    ]
    return lines(
        f"Calibration (expected error {error:.3f})",
        x,
        series,
        axes=("confidence: sigmoid of the reward difference", "share right"),
    )


def hardness_section(tables: Mapping[str, Path], seed: int) -> dict[str, Any]:
    """Return the distribution of alpha and its parts by category.

    Args:
        tables: directory of each hardness artifact by category.
        seed: of the bootstrap.

    Raises:
        ArtifactError: a table or its constants are missing.
    """
    read = {
        name: read_rows(
            path, "hardness.parquet", ("similarity", "alpha_d", "gap", "kept", "alpha_m", "alpha"), f"hardness_{name}"
        )
        for name, path in tables.items()
    }
    constants = {name: read_json(path, "constants.json", f"hardness_{name}") for name, path in tables.items()}
    alphas = {name: [float(row["alpha"]) for row in rows] for name, rows in read.items()}
    every = [a for own in alphas.values() for a in own]
    span = (min(every), max(every)) if every else None
    rows, found = [], {}
    for name, own in read.items():
        cells = [
            _mean_cell([float(row[key]) for row in own], seed) for key in ("alpha", "alpha_d", "gap", "similarity")
        ]
        kept = sum(bool(row["kept"]) for row in own)
        alpha_m = float(own[0]["alpha_m"]) if own else math.nan
        rows.append([category_name(name), str(len(own)), *cells, number(alpha_m), f"{kept} of {len(own)}"])
        found[name] = {"n": len(own), "alpha_mean": cells[0]["value"], "alpha_m": alpha_m, "constants": constants[name]}
    text = "Alpha multiplies the advantage: above 1 for prompts whose completions are far from the demonstration. "
    if span:
        text += f"It is mild: from {span[0]:.2f} to {span[1]:.2f} here, before it is divided by its mean over a batch."
    return {
        "text": text,
        "head": [
            "category",
            "n",
            "mean alpha",
            "alpha D",
            "reward gap",
            "similarity W",
            "alpha M",
            "gaps kept (M = 1)",
        ],
        "rows": rows,
        "note": "Means over prompts with bootstrap 95 % intervals.",
        "charts": [
            histogram(category_name(n), a, x_label="alpha", marker=sum(a) / len(a) if a else None, span=span)
            for n, a in alphas.items()
        ],
        "by_category": found,
    }


def _mean_cell(values: Sequence[float], seed: int) -> Cell:
    if not values:
        return dict(EMPTY)
    mean = bootstrap_mean(values, _RESAMPLES, seed)
    return number(mean.value, mean.low, mean.high)


def in_order(found: Mapping[str, Path], categories: Sequence[str]) -> dict[str, Path]:
    """Return artifacts by category in the order of the taxonomy, `helpful` last."""
    order = [*categories, taxonomy.HELPFUL]
    return {name: found[name] for name in order if name in found}
