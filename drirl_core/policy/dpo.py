"""Direct preference optimisation (DPO) from the SFT start: a baseline on the data of DR-IRL, without rewards."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig as TrlDpoConfig

from drirl_core import taxonomy
from drirl_core.config import DpoConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.graph import build as stages
from drirl_core.graph.policies import CHECKPOINTS
from drirl_core.models.adapters import adapters_of
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.templates import chat_text
from drirl_core.policy.arguments import Ours, arguments_of
from drirl_core.policy.options import require_options
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.preferences import preference_pairs
from drirl_core.policy.readme import write_readme
from drirl_core.policy.schedule import dataset_rows
from drirl_core.policy.scoring import alpha_of_prompts
from drirl_core.policy.sft_rows import first, tokenised
from drirl_core.policy.together import SharedDpoTrainer
from drirl_core.policy.tracking import Tracking, tracking_of
from drirl_core.policy.training import (
    TrainingStream,
    common_arguments,
    found_checkpoint,
    passes_over,
    read_log,
    run,
    save_merged,
    write_log,
)
from drirl_core.policy.validation import REPLY_TOKENS, CheckpointChoice, checkpoint_choice
from drirl_core.reporting import Plot, Reporter
from drirl_core.rewards.stage import all_pools
from drirl_core.text.thoughts import opened_by

_ACCURACY, _MARGIN = "rewards/accuracies", "rewards/margins"
CURVES = {"loss": "loss", _ACCURACY: "pairs in the right order", _MARGIN: "margin (nats)"}
"""What the logged metrics of preference pairs are called in plots."""
LOG = "training_log.jsonl"
"""Log of the steps in the scratch directory."""


@dataclass(frozen=True)
class Following:
    """Who follows a training.

    Args:
        name: of the training in progress lines.
        reporter: receives progress.
        tracking: what trackers get.
        choice: chooses the checkpoint by validation prompts; None publishes the last step.
    """

    name: str
    reporter: Reporter
    tracking: Tracking
    choice: CheckpointChoice | None = None


def build_dpo_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Train the start on the preference pairs of all completion pools.

    The start is the reference as well, and TRL's own trainer does the rest.

    Args:
        context: inputs are the data sets and completion pools of all categories, and `sft_checkpoint` if there is one.

    Returns:
        Display metadata: pairs, those that were cut or left out, steps, first and last loss, accuracy and margin,
        curves.

    Raises:
        ConfigError: an adapter's target is no layer of the model, or the policy is asked inside a thought.
        DataError: the pools hold no pair.
        TrainingError: the loss or a weight is not finite.
    """
    return _prefer(context, "dpo")


def build_dpo_s_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Train the start as `build_dpo_checkpoint` does, on pairs that are drawn in proportion to their prompt's alpha.

    In expectation this is the loss with alpha as the weight of a pair: TRL's loss has no such weight. A pair of a
    harmless prompt has alpha 1.

    Args:
        context: as for `build_dpo_checkpoint`, and the hardness tables.
    """
    return _prefer(context, "dpo_s")


def drawn_by_weight(rows: Sequence[dict[str, Any]], weights: Sequence[float], seed: int) -> list[dict[str, Any]]:
    """Draw as many rows as there are, each about weight / mean weight times.

    Systematic resampling: one random number for all draws, so that a row is drawn as often as expected, rounded
    down or up, and equal weights draw every row once.

    Args:
        rows: N rows.
        weights: N numbers, at least 0 and not all 0.
        seed: of the random number.

    Returns:
        N rows in their order.
    """
    total, offset = sum(weights), random.Random(seed).random()  # noqa: S311 - reproducible order, not security
    drawn, passed, taken = [], 0.0, 0
    for row, weight in zip(rows, weights, strict=True):
        passed += weight / total * len(rows)
        while taken < len(rows) and taken + offset < passed - 1e-9:
            drawn.append(row)
            taken += 1
    return drawn


def kind_weights(rows: Sequence[Mapping[str, Any]], helpful_share: float) -> list[float]:
    """Weigh pairs so that those of harmless prompts have a share of all weight.

    Args:
        rows: N pairs with their `category`.
        helpful_share: in (0, 1), `dpo.helpful_share`; 0 leaves all pairs alike.

    Returns:
        N weights above 0.

    Raises:
        DataError: a share is asked for, and the pairs are all of harmless prompts or all of unsafe ones.
    """
    helpful = [row["category"] == taxonomy.HELPFUL for row in rows]
    count = sum(helpful)
    if not helpful_share:
        return [1.0] * len(rows)
    if count in (0, len(rows)):
        raise DataError(
            f"dpo.helpful_share is {helpful_share}, but {count} of the {len(rows)} pairs are of harmless prompts, so "
            "that no share can be drawn; raise completions.samples or completions.helpful_prompts, or set it to 0"
        )
    return [
        helpful_share / count if of_helpful else (1 - helpful_share) / (len(rows) - count) for of_helpful in helpful
    ]


def _prefer(context: stages.Context, name: str) -> dict[str, Any]:
    require_options(context.config, "dpo.trl")
    config, seed = context.config, context.config.seed_of(context.config.dpo)
    pairs = _pairs(context, name)
    policy = load_policy(context.inputs.get("sft_checkpoint", config.models.policy), config.models, context.shards)
    adapters = adapters_of(config.dpo.lora, policy.model, "dpo.lora", config.models.policy)
    limit = min(config.dpo.max_length, policy.context or config.dpo.max_length)
    rows, fitting = fitting_pairs(pairs, policy, limit, context.reporter)
    weights = kind_weights(rows, config.dpo.helpful_share)
    if name == "dpo_s":
        alpha = alpha_of_prompts(context)
        weights = [weight * alpha.get(row["prompt_id"], 1.0) for weight, row in zip(weights, rows, strict=True)]
    rows = drawn_by_weight(rows, weights, seed)
    random.Random(seed).shuffle(rows)  # noqa: S311 - reproducible order, not security
    tracking = tracking_of(context)
    common = common_arguments(seed, context.scratch, policy.device.type, tracking)
    arguments = dpo_arguments(config.dpo, len(rows), limit, common, context.processes)
    count = config.dpo.validation_prompts
    choice = checkpoint_choice(context, policy, count, "dpo.validation_prompts", REPLY_TOKENS)
    following = Following("DPO", context.reporter, tracking, choice)
    trainer = trained_on_pairs(rows, policy, adapters, arguments, following)
    if not context.first:
        return {}
    found = choice.publish(trainer.model, context.out) if choice else {}
    log = read_log(context.scratch / LOG)
    save_merged(trainer.model, policy, context.out)
    metrics = {
        "pairs": len(rows),
        **{f"pairs/{name}": count for name, count in sorted(Counter(row["category"] for row in rows).items())},
        **fitting,
        "steps": int(trainer.state.global_step),
        **ends_of(log),
    }
    write_log(context.out, log, metrics)
    write_readme(context, CHECKPOINTS[name], metrics)
    title = "Direct preference optimisation" + (", pairs drawn by alpha" if name == "dpo_s" else "")
    curve_plot(log, CURVES, context.out / "curves.png", title, name)
    curves = Plot(context.out / "curves.png", "Loss, accuracy and margin of the pairs by step")
    return {**metrics, **policy.rendering, "curves": curves, **found}


def trained_on_pairs(
    rows: Sequence[dict[str, Any]],
    policy: Policy,
    adapters: Any,
    arguments: TrlDpoConfig,
    following: Following,
) -> SharedDpoTrainer:
    """Train a policy on preference pairs, from the newest complete checkpoint where there is one.

    Args:
        rows: pairs as `preference_pairs` gives them, in the order of training.
        policy: the policy, which is the reference as well.
        adapters: settings for PEFT, or None to train all weights.
        arguments: of `dpo_arguments`; the log goes beside its directory of checkpoints, under the name `LOG`.
        following: who follows the training.

    Returns:
        The trainer, with the trained model.
    """
    checkpoints = Path(arguments.output_dir)
    stream = TrainingStream(following.name, checkpoints.parent / LOG, following.reporter)
    trainer = SharedDpoTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=policy.tokenizer,
        peft_config=adapters,
        callbacks=[one for one in (following.choice, stream) if one],  # the stream marks a checkpoint as complete
    )
    run(trainer, found_checkpoint(following.name, checkpoints, following.reporter), following.tracking)
    return trainer


def ends_of(log: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the loss of the first step, and loss, accuracy and margin of the pairs in the last one."""
    return {
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "pair_accuracy": log[-1][_ACCURACY],
        "margin": log[-1][_MARGIN],
    }


def dpo_arguments(
    settings: DpoConfig, pairs: int, limit: int, common: Mapping[str, Ours], processes: int = 1
) -> TrlDpoConfig:
    """Return TRL's arguments for our settings.

    Args:
        settings: epochs, batch size, learning rate and B of the loss.
        pairs: number of pairs.
        limit: tokens per row at most.
        common: arguments that do not depend on the method.
        processes: that share a batch evenly.

    Raises:
        ConfigError: an option of `dpo.trl` cannot be used.
    """
    ours = {
        **common,
        **passes_over(pairs, settings, "dpo", processes),
        "seed": Ours(common["seed"].value, "dpo.seed"),
        "data_seed": Ours(common["data_seed"].value, "dpo.seed"),
        "beta": Ours(settings.beta, "dpo.beta"),
        "max_length": Ours(limit, "dpo.max_length"),
    }
    return arguments_of(TrlDpoConfig, "dpo.trl", ours, settings.trl)


def _pairs(context: stages.Context, name: str) -> list[dict[str, Any]]:
    trained = {row["prompt_id"] for rows in dataset_rows(context, "train").values() for row in rows}
    pairs = [
        pair
        for category, prompts in all_pools(context).items()
        for pair in preference_pairs([prompt for prompt in prompts if prompt.prompt_id in trained], category)
    ]
    if not pairs:
        raise DataError(
            "no sampled completion of the pools answers an unsafe prompt or refuses a harmless one, so that there is "
            "nothing to prefer the demonstrations to; raise completions.samples or completions.prompts, or take "
            f"{name} out of baselines"
        )
    if taxonomy.HELPFUL not in {row["category"] for row in pairs}:
        context.reporter.log(
            f"DPO: all {len(pairs)} pairs are of unsafe prompts, as no sampled completion refuses a harmless one; "
            "nothing keeps the policy from refusing everything"
        )
    return pairs


def fitting_pairs(
    pairs: Sequence[dict[str, Any]], policy: Policy, limit: int, reporter: Reporter, what: str = "DPO"
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Leave out pairs with no room for an answer, and count those that TRL will cut.

    Args:
        pairs: at least one pair.
        policy: its tokenizer renders the pairs.
        limit: tokens per row at most.
        reporter: gets what was set aside when the policy was loaded, and which pairs do not fit.
        what: name of the training in progress lines.

    Returns:
        The pairs that are trained on, and the prompts whose pairs are cut (`rows_cut`) or left out (`rows_dropped`).

    Raises:
        ConfigError: the policy is asked inside a thought.
        DataError: a category loses all its pairs.
    """
    for note in policy.notes:
        reporter.log(note)
    if opened_by(chat_text(policy.tokenizer, pairs[0]["prompt"][-1]["content"])):
        raise ConfigError(
            f"{what} learns from pairs of answers, but the chat template of the policy asks for answers inside a "
            "thought, which such pairs cannot teach; set models.thinking to false if the model allows it, or take the "
            "baselines dpo, dpo_s and irft out of baselines"
        )
    answers = ([{**row, "completion": row[side]} for row in pairs] for side in ("chosen", "rejected"))
    sides = [tokenised(policy.tokenizer, rows, limit, setting="dpo.max_length") for rows in answers]
    dropped = {name for side in sides for name in side.dropped}
    cut = {name for side in sides for name in side.cut} - dropped
    kept = [row for row in pairs if f"{row['category']}/{row['prompt_id']}" not in dropped]
    counts = {"rows_cut": len(cut), "rows_dropped": len(dropped)}
    for what, names in (("cut off at the end", cut), ("left out, with no room for an answer", dropped)):
        if names:
            reporter.log(f"{what}: pairs of {len(names)} prompts are {what} in {limit} tokens: {first(sorted(names))}")
    return kept, counts
