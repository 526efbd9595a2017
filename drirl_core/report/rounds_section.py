"""Round by round: how well the rewards order samples, and where the policy that they train goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.completions.policies import SAMPLED
from drirl_core.graph.build import Context
from drirl_core.graph.rounds import NUMBERS, policy_of, pool_of, rewards_of
from drirl_core.report.cells import EMPTY, Cell, category_name, number, share
from drirl_core.report.reading import read_json
from drirl_core.stats import wilson_rate

_TEXT = (
    "Each round but the last trains a policy on its rewards, and the next rewards are learned on the completions of "
    "that policy as well. Rounds help where the order on samples of the newest policy keeps up while the order on "
    "samples of the start does not fall. Where a policy's reward rises and the rewards that trained it no longer order "
    "its own samples, it has learned to please them: they were optimised too far."
)
_REWARD_NOTE = (
    "Prompts outside the training split, all categories together: share of pairs of a right and a wrong sample of one "
    "prompt in which the right one has more reward. Wilson 95 % intervals over groups; n is pairs / groups. The "
    "samples of the start are the same in every round."
)
_POLICY_NOTE = (
    "Reward: mean of the first step and of the last fifth of the steps; every round normalises its own, so that levels "
    "do not compare between rounds. Own samples in order: by the rewards that trained the policy, outside the training "
    "split. Sampled: completions of prompts outside the training split, drawn as the pools are. Greedy: the checkpoint "
    "that was published, on validation prompts (policy.validation_prompts). Nothing is sampled from the final policy."
)
_KINDS = ("unsafe", "look_alike")


@dataclass(frozen=True)
class _Round:
    """The artifacts of one round.

    Args:
        title: its name in the tables.
        rewards: directory of each reward model by category.
        policy: directory of its policy, and the asset's name.
        pools: directory of each pool of this policy by category; none of the final policy.
    """

    title: str
    rewards: Mapping[str, Path]
    policy: tuple[Path, str]
    pools: Mapping[str, Path]


def rounds_section(context: Context) -> dict[str, Any] | None:
    """Return two tables, of the rewards and of the policies of each round.

    Args:
        context: inputs are the reward models, policies and pools of all rounds, the final ones among them.

    Returns:
        `text`, `rewards` and `policies` (each `head`, `rows`, `note`), and `numbers` for programs; None where there is
        one round alone.

    Raises:
        ArtifactError: metrics of an artifact are missing.
    """
    rounds = [
        _Round(
            f"round {n}",
            context.named(rewards_of(n)),
            (context.inputs[policy_of(n)], policy_of(n)),
            context.named(pool_of(n)),
        )
        for n in NUMBERS
        if policy_of(n) in context.inputs
    ]
    if not rounds:
        return None
    final = (context.inputs["policy_checkpoint"], "policy_checkpoint")
    rounds.append(_Round(f"round {len(rounds) + 1}, final", context.named("reward_model"), final, {}))
    found = [_numbers(one) for one in rounds]
    return {
        "text": _TEXT,
        "rewards": {
            "head": ["rewards", "learned on", "all samples", "samples of the start", "samples of the newest policy"],
            "rows": [_reward_row(one) for one in found],
            "note": _REWARD_NOTE,
        },
        "policies": {
            "head": [
                "policy", "reward", "KL to where it started (nats per token)", "own samples in order",
                *(f"{category_name(kind)}: refused, sampled" for kind in _KINDS),
                *(f"{category_name(kind)}: refused, greedy" for kind in _KINDS), "unusable, greedy",
            ],
            "rows": [_start_row(found[0]), *map(_policy_row, found)],
            "note": _POLICY_NOTE,
        },
        "numbers": found,
    }  # fmt: skip


def _numbers(one: _Round) -> dict[str, Any]:
    """Read what the artifacts of a round say of themselves."""
    rewards = [read_json(path, "metrics.json", f"reward model of {name}") for name, path in one.rewards.items()]
    pools = [read_json(path, "metrics.json", f"pool of {name}") for name, path in one.pools.items()]
    folder, asset = one.policy
    trained = read_json(folder, "metrics.json", asset)
    validated = (folder / "validation.json").is_file()
    points = read_json(folder, "validation.json", asset) if validated else {"chosen": 0, "points": []}
    within = [metrics["within_group"] for metrics in rewards]
    return {
        "round": one.title,
        "learned_on": sorted({name for row in rewards for name in row["by_policy"]} & {*SAMPLED}, key=SAMPLED.index),
        "within_group": {
            name: _pooled(row[name] for row in within if name in row) for name in ("all", "start", "newest")
        },
        "own_order": _pooled(metrics["within_group"]["all"] for metrics in pools),
        "sampled": {kind: _refused(pools, kind) for kind in _KINDS},
        "first_reward": trained["first_reward"],
        "last_reward": trained["last_reward"],
        "kl": trained["kl"],
        "chosen": next((point for point in points["points"] if point["step"] == points["chosen"]), None),
        "first": points["points"][0] if points["points"] else None,
    }


def _pooled(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Add up the pairs within groups of several categories; None where there are none."""
    filled = [row for row in rows if row["pairs"]]
    pairs, groups = (sum(row[name] for row in filled) for name in ("pairs", "groups"))
    if not pairs:
        return None
    estimate = wilson_rate(sum(row["accuracy"] * row["pairs"] for row in filled) / pairs, groups)
    return {
        "accuracy": estimate.value, "low": estimate.low, "high": estimate.high, "pairs": pairs, "groups": groups,
    }  # fmt: skip


def _refused(pools: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Any] | None:
    """Return the refused share of the completions of one kind of prompt over all pools; None without any."""
    rows = [pool["replies"][kind] for pool in pools if kind in pool["replies"]]
    count = sum(row["n"] for row in rows)
    return {"refused": sum(row["refused"] * row["n"] for row in rows) / count, "n": count} if count else None


def _reward_row(found: Mapping[str, Any]) -> list[Any]:
    return [
        found["round"],
        ", ".join(map(category_name, found["learned_on"])),
        *(_order(found["within_group"][name]) for name in ("all", "start", "newest")),
    ]


def _policy_row(found: Mapping[str, Any]) -> list[Any]:
    return [
        found["round"],
        f"{found['first_reward']:+.2f} to {found['last_reward']:+.2f}",
        number(found["kl"]),
        _order(found["own_order"]),
        *(_sampled(found["sampled"][kind]) for kind in _KINDS),
        *_greedy(found["chosen"]),
    ]


def _start_row(found: Mapping[str, Any]) -> list[Any]:
    """Return the row of what the first policy started from: its validation before the first step."""
    return ["start", "", *(dict(EMPTY) for _ in range(4)), *_greedy(found["first"])]


def _order(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return dict(EMPTY)
    return share({**row, "rate": row["accuracy"], "n": f"{row['pairs']} / {row['groups']}"}, digits=0)


def _sampled(row: Mapping[str, Any] | None) -> Cell:
    """Show a share without an interval: samples of one prompt are not independent."""
    return _per_cent(row["refused"], f"n {row['n']}") if row else dict(EMPTY)


def _greedy(point: Mapping[str, Any] | None) -> list[Cell]:
    return [_per_cent(point[name]) if point else dict(EMPTY) for name in (*_KINDS, "unusable")]


def _per_cent(value: float, n: str = "") -> Cell:
    return {"value": value, "shown": f"{100 * value:.1f} %", "interval": "", "n": n}
