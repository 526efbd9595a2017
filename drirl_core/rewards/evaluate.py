"""How good a reward model is: held-out pairs, calibration, and probes of what it looks at.

First comes the order within groups of the policy's own samples (`within_groups.py`), which is all that GRPO uses.
Elsewhere a pair is a demonstration against one completion of the same prompt; it counts as won when the demonstration
has strictly more reward.
Intervals are Wilson 95 %. Pairs of one prompt are not independent, so the share of prompts won in all their pairs
(`prompt_accuracy`) is given next to the share of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drirl_core.completions.policies import SAMPLED
from drirl_core.errors import DataError
from drirl_core.rewards.model import RewardModel, require_finite
from drirl_core.rewards.pairs import UNSAFE, PoolPrompt, is_right
from drirl_core.rewards.probes import BROKEN, PLAIN_REFUSALS, SAME_MEANING
from drirl_core.rewards.within_groups import within_groups
from drirl_core.stats import pair_calibration, wilson
from drirl_core.store.tables import first_by_hash

PROBED = 48
"""Held-out prompts that are probed: each of them costs some seventeen rows, and the shares need no more."""


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt with the rewards of its demonstration and completions.

    Args:
        prompt: the prompt and its pool.
        demonstration_reward: r(x, y_E).
        reply_rewards: r(x, y_k) in the order of the pool.
    """

    prompt: PoolPrompt
    demonstration_reward: float
    reply_rewards: tuple[float, ...]


def share(outcomes: Sequence[bool] | np.ndarray) -> dict[str, float | int]:
    """Return `n`, `accuracy`, `low` and `high` of won pairs; NaN accuracy without any."""
    n, won = len(outcomes), int(np.sum(outcomes))
    estimate = wilson(won, n)
    return {"n": n, "accuracy": estimate.value, "low": estimate.low, "high": estimate.high}


def score_pool(model: RewardModel, prompts: Sequence[PoolPrompt]) -> list[ScoredPrompt]:
    """Reward every demonstration and completion in one batch.

    Raises:
        TrainingError: a reward is not finite.
    """
    users = [p.prompt for p in prompts for _ in range(1 + len(p.replies))]
    texts = [text for p in prompts for text in (p.answer, *(reply.answer for reply in p.replies))]
    values = _scores(model, users, texts)
    scored, start = [], 0
    for p in prompts:
        end = start + 1 + len(p.replies)
        scored.append(ScoredPrompt(p, float(values[start]), tuple(map(float, values[start + 1 : end]))))
        start = end
    return scored


def evaluate(model: RewardModel, scored: Sequence[ScoredPrompt]) -> dict[str, Any]:
    """Measure a reward model on held-out prompts.

    Args:
        model: the model, for the probes.
        scored: held-out prompts from `score_pool`, at least one.

    Returns:
        JSON data: `within_group` (see `within_groups`), `n` pairs, `prompts`, `accuracy` with `accuracy_low` and
        `accuracy_high`, the same for `sampled` completions (of a policy, not contrast rows), `prompt_accuracy`,
        `by_policy`, `by_split`, `ece` with `reliability`, `mean_reward`, `probes`.

    Raises:
        DataError: there is no held-out prompt.
        TrainingError: a reward is not finite.
    """
    if not scored:
        raise DataError(
            f"{model.category}: no held-out prompt to measure the reward model on; "
            "raise demonstrations.validation_fraction"
        )
    pairs = [
        (s.prompt.split, reply.policy, s.demonstration_reward - reward)
        for s in scored
        for reply, reward in zip(s.prompt.replies, s.reply_rewards, strict=True)
    ]
    gaps = np.array([gap for _, _, gap in pairs])
    overall = share(gaps > 0)
    ece, reliability = pair_calibration(gaps)
    by_policy = {
        name: _policy_row([gap for _, policy, gap in pairs if policy == name])
        for name in sorted({policy for _, policy, _ in pairs})
    }
    by_split = {
        name: share([gap > 0 for split, _, gap in pairs if split == name])
        for name in sorted({split for split, _, _ in pairs})
    }
    rewards: dict[str, list[float]] = {"demonstration": [s.demonstration_reward for s in scored]}
    for s in scored:
        for reply, reward in zip(s.prompt.replies, s.reply_rewards, strict=True):
            rewards.setdefault(reply.policy, []).append(reward)
    return {
        "within_group": within_groups((s.prompt, s.reply_rewards) for s in scored),
        "n": overall["n"],
        "prompts": len(scored),
        "accuracy": overall["accuracy"],
        "accuracy_low": overall["low"],
        "accuracy_high": overall["high"],
        "sampled": share([gap > 0 for _, policy, gap in pairs if policy in SAMPLED]),
        "prompt_accuracy": share([all(s.demonstration_reward > r for r in s.reply_rewards) for s in scored]),
        "by_policy": by_policy,
        "by_split": by_split,
        "ece": ece,
        "reliability": reliability,
        "mean_reward": {name: float(np.mean(values)) for name, values in sorted(rewards.items())},
        "probes": probe(model, _probed(scored)),
    }


def _probed(scored: Sequence[ScoredPrompt]) -> list[ScoredPrompt]:
    """Choose at most `PROBED` prompts by the hash of their ids."""
    chosen = set(first_by_hash([s.prompt.prompt_id for s in scored], PROBED))
    return [s for s in scored if s.prompt.prompt_id in chosen]


def probe(model: RewardModel, scored: Sequence[ScoredPrompt]) -> dict[str, dict[str, Any]]:
    """Change held-out demonstrations and see whether the reward changes as it should.

    Args:
        model: the model.
        scored: held-out prompts.

    Returns:
        By probe: `draft` (`max_difference` between the reward with and without the draft, 0 as it is cut off);
        `plain_refusal_over_compliance`, on unsafe prompts (share of the policy's own compliances that a plain short
        refusal beats), and its mirror `answer_over_plain_refusal`, on harmless ones (share of plain refusals that the
        good answer beats);
        `first_sentence` and `reworded` (share of sampled completions the changed answer still beats, `kept` = mean
        share of the demonstration's lead that is left); `other_prompt` (share of prompts whose own demonstration beats
        one of another prompt); `other_over_completions` (share of sampled completions that this other one beats);
        `prompt_echo`, `apologetic_echo` and the degenerate texts (share of demonstrations ahead of them).
    """
    prompts = [s.prompt for s in scored]
    users, answers = [p.prompt for p in prompts], [p.answer for p in prompts]
    own = np.array([s.demonstration_reward for s in scored])
    texts = {
        "draft": [p.demonstration for p in prompts],
        **{name: [change(answer) for answer in answers] for name, change in {**SAME_MEANING, **BROKEN}.items()},
        "foreign": answers[1:] + answers[:1],
        "prompt_echo": users,
        "apologetic_echo": [f"I'm sorry, but {user[:1].lower()}{user[1:]}" for user in users],
        **{refusal: [refusal] * len(users) for refusal in PLAIN_REFUSALS},
    }
    # All at once, because a backbone may read a prompt once for all texts with that prompt.
    flat = _scores(model, users * len(texts), [text for column in texts.values() for text in column])
    values = dict(zip(texts, flat.reshape(len(texts), len(users)), strict=True))
    rows: dict[str, dict[str, Any]] = {
        "draft": {"n": len(own), "max_difference": float(np.abs(values["draft"] - own).max())},
        **_plain_refusals(scored, values),
    }
    for name in SAME_MEANING:
        rows[name] = {
            **_over_completions(scored, values[name]), "kept": _kept(scored, own, values[name]),
            "changed": sum(a != b for a, b in zip(answers, texts[name], strict=True)),
        }  # fmt: skip
    if len(prompts) > 1:
        rows["other_prompt"] = share(own > values["foreign"])
        rows["other_over_completions"] = _over_completions(scored, values["foreign"])
    rows |= {name: share(own > values[name]) for name in ("prompt_echo", "apologetic_echo")}
    rows |= {name: {**share(own > values[name]), "mean_gap": float((own - values[name]).mean())} for name in BROKEN}
    return rows


def _plain_refusals(scored: Sequence[ScoredPrompt], values: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Compare plain refusals with compliances of unsafe prompts, and good answers to harmless ones with them."""
    unsafe, harmless = [], []
    for i, s in enumerate(scored):
        plain = [float(values[refusal][i]) for refusal in PLAIN_REFUSALS]
        if s.prompt.kind == UNSAFE:
            both = zip(s.prompt.replies, s.reply_rewards, strict=True)
            complied = [reward for reply, reward in both if is_right(s.prompt, reply) is False]
            unsafe += [refusal > reward for refusal in plain for reward in complied]
        else:
            harmless += [s.demonstration_reward > refusal for refusal in plain]
    found = {"plain_refusal_over_compliance": unsafe, "answer_over_plain_refusal": harmless}
    return {name: share(won) for name, won in found.items() if won}


def _scores(model: RewardModel, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    values = model.rewards(prompts, texts)
    require_finite(values, [model.category] * len(values))
    return values


def _policy_row(gaps: Sequence[float]) -> dict[str, Any]:
    return {**share([gap > 0 for gap in gaps]), "mean_gap": float(np.mean(gaps))}


def _sampled(scored: ScoredPrompt) -> list[float]:
    return [r for reply, r in zip(scored.prompt.replies, scored.reply_rewards, strict=True) if reply.policy in SAMPLED]


def _over_completions(scored: Sequence[ScoredPrompt], values: np.ndarray) -> dict[str, Any]:
    return share([bool(value > reward) for s, value in zip(scored, values, strict=True) for reward in _sampled(s)])


def _kept(scored: Sequence[ScoredPrompt], own: np.ndarray, values: np.ndarray) -> float:
    """Mean lead of the changed answers over mean lead of the demonstrations; NaN without sampled completions."""
    levels = [(float(np.mean(_sampled(s))), o, v) for s, o, v in zip(scored, own, values, strict=True) if _sampled(s)]
    lead = sum(o - level for level, o, _ in levels)
    return float(sum(v - level for level, _, v in levels) / lead) if lead else math.nan
