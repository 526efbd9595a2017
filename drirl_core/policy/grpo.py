"""The policy checkpoint: GRPO with dynamic reward scaling, from start to merged weights."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, cycle, islice
from math import floor
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from drirl_core import taxonomy
from drirl_core.config import PolicyConfig
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.hardness.equations import Coefficients, SentenceSimilarity
from drirl_core.models.embeddings import Embedder
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.loading import Policy, load_policy
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.scoring import RolloutScorer
from drirl_core.policy.sft import write_log
from drirl_core.policy.trainer import DynamicRewardScalingTrainer
from drirl_core.policy.training import (
    TrainingStream,
    checkpoint_state,
    common_arguments,
    last_checkpoint,
    peft_config,
    read_log,
    run,
    save_merged,
)
from drirl_core.reporting import Plot
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.store.tables import read_table

_CURVES = {
    "reward": "reward",
    "kl": "KL to the start (nats a token)",
    "entropy": "entropy (nats)",
    "frac_reward_zero_std": "groups without variance",
    "completions/mean_length": "completion length (tokens)",
    "alpha/std": "spread of alpha",
}


def build_policy_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy: GRPO whose advantages are scaled by alpha (METHOD section 5).

    Args:
        context: inputs are all data sets, reward models and hardness tables, and `sft_checkpoint` when it is the start.

    Returns:
        Display metadata: first and last reward, KL, entropy, alpha, tokens generated, seconds a phase, curves.

    Raises:
        DataError: a data set has no training rows.
        TrainingError: a reward, alpha, loss or weight is not finite.
    """
    config = context.config
    start: str | Path = context.inputs["sft_checkpoint"] if config.policy.start == "sft" else config.models.policy
    rows = schedule(training_prompts(context), config.policy, config.seed)
    policy = load_policy(start, config.models)
    scorer = _scorer(context)
    log_file = context.scratch / "training_log.jsonl"
    stream = TrainingStream("GRPO", log_file, context.reporter, scorer.state_dict)
    arguments = grpo_arguments(config.policy, common_arguments(config.seed, context.scratch, policy))
    trainer = DynamicRewardScalingTrainer(
        coefficient=scorer,
        exact_sampling=policy.device.type == "cpu",
        model=policy.model,
        reward_funcs=scorer.reward,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        peft_config=peft_config(config.policy.lora),
        callbacks=[stream],
    )
    checkpoint = last_checkpoint(Path(arguments.output_dir))
    if checkpoint:
        context.reporter.log(f"GRPO resumes from {checkpoint.name}")
        scorer.load_state_dict(checkpoint_state(checkpoint))
    run(trainer, checkpoint)
    return _finish(context, policy, trainer, read_log(log_file))


def training_prompts(context: stages.Context) -> dict[str, list[dict[str, Any]]]:
    """Return the training prompts with their demonstrations, by category.

    Raises:
        DataError: a category has none.
    """
    categories = [name.removeprefix("reward_model_") for name in context.inputs if name.startswith("reward_model_")]
    prompts: dict[str, list[dict[str, Any]]] = {}
    for category in sorted(categories):
        rows = read_table(context.inputs[stages.dataset_name(category)] / "rows.parquet")
        prompts[category] = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "category": category,
                "prompt_id": row["prompt_id"],
                "demonstration": row["answer"],
                "kind": row["kind"],
            }
            for row in rows
            if row["split"] == "train"
        ]
        if not prompts[category]:
            raise DataError(
                f"{stages.dataset_name(category)} has no training rows; raise demonstrations.quota or add prompts"
            )
    return prompts


def schedule(
    prompts: Mapping[str, Sequence[dict[str, Any]]], settings: PolicyConfig, seed: int
) -> list[dict[str, Any]]:
    """Lay out the prompts of all steps, so that every step mixes the categories and the helpful share.

    Args:
        prompts: training prompts by category; `helpful` holds the harmless ones.
        settings: steps, prompts a step and helpful share.
        seed: of the order inside a category.

    Returns:
        steps * prompts_per_step rows. Harm categories take turns; look-alikes are spread evenly.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible order, not security

    def endless(rows: Sequence[dict[str, Any]]) -> Any:
        while True:
            order = list(rows)
            chance.shuffle(order)
            yield from order

    turns = [endless(prompts[c]) for c in sorted(prompts) if c != taxonomy.HELPFUL]
    harm = (next(turn) for turn in cycle(turns))
    kinds = {kind: endless(rows) for kind, rows in _by_kind(prompts.get(taxonomy.HELPFUL, ())).items()}
    helpful = _mixed(kinds, settings.look_alike_share)
    harmless = (
        min(round(settings.prompts_per_step * settings.helpful_share), settings.prompts_per_step - 1) if kinds else 0
    )
    rows: list[dict[str, Any]] = []
    for _ in range(settings.steps):
        step = [*islice(harm, settings.prompts_per_step - harmless), *islice(helpful, harmless)]
        chance.shuffle(step)
        rows += step
    return rows


def _by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault("look_alike" if row["kind"] == "look_alike" else "general", []).append(row)
    return kinds


def _mixed(kinds: Mapping[str, Iterator[dict[str, Any]]], look_alike_share: float) -> Iterator[dict[str, Any]]:
    """Spread the look-alikes evenly among the harmless rows, in the share asked for where there are both kinds."""
    share = look_alike_share if len(kinds) == 2 else float("look_alike" in kinds)
    for number in count():
        is_look_alike = floor((number + 1) * share) > floor(number * share)
        yield next(kinds["look_alike" if is_look_alike else "general"])


def grpo_arguments(settings: PolicyConfig, common: Mapping[str, Any]) -> GRPOConfig:
    """Translate our settings to TRL's."""
    batch = settings.prompts_per_step * settings.num_generations
    micro = settings.micro_batch or batch
    return GRPOConfig(
        **common,
        max_steps=settings.steps * settings.num_iterations,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        num_generations=settings.num_generations,
        num_iterations=settings.num_iterations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.kl,
        epsilon=settings.epsilon,
        loss_type=settings.loss,
        scale_rewards="group",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,  # the adapters start at zero, so the first step needs no caution
        save_steps=settings.save_steps
        * settings.num_iterations,  # a resume generates anew, so between generations only
        shuffle_dataset=False,
        log_completions=False,
    )


def _scorer(context: stages.Context) -> RolloutScorer:
    config = context.config
    embedder = Embedder(config.models, context.store)
    models = {name: load_reward_model(path) for name, path in context.named("reward_model").items()}
    stored: dict[str, float] = {}
    constants: dict[str, dict[str, float]] = {}
    for category, path in context.named("hardness").items():
        stored.update({row["prompt_id"]: row["alpha"] for row in read_table(path / "hardness.parquet")})
        constants[category] = _read_constants(path / "constants.json")
    coefficients = Coefficients(config.hardness, config.seed, stored, constants)
    router = RewardRouter(models, embedder, HiddenStates(config.models, context.store, keep=False))
    return RolloutScorer(router, SentenceSimilarity(embedder, config.hardness), coefficients)


def _read_constants(file: Path) -> dict[str, float]:
    try:
        constants = json.loads(file.read_text(encoding="utf-8"))
        return {name: float(constants[name]) for name in ("mean_delta", "mean_gap")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); materialize the hardness of this category again") from error


def generated_tokens(log: Sequence[Mapping[str, float]], settings: PolicyConfig) -> int:
    """Count the tokens of all completions of a training run.

    Args:
        log: one row a step; only a step that generated has a mean length.
        settings: completions a step.
    """
    completions = settings.prompts_per_step * settings.num_generations
    return round(sum(row.get("completions/mean_length", 0.0) * completions for row in log))


def _finish(context: stages.Context, policy: Policy, trainer: Any, log: list[dict[str, float]]) -> dict[str, Any]:
    save_merged(trainer.model, policy, context.out)
    tail = log[-max(1, len(log) // 5) :]

    def late(key: str) -> float:
        values = [row[key] for row in tail if key in row]
        return sum(values) / len(values) if values else float("nan")

    metrics = {
        "steps": len(log),
        "first_reward": log[0]["reward"],
        "last_reward": late("reward"),
        "kl": late("kl") if context.config.policy.kl else 0.0,
        "entropy": late("entropy"),
        "zero_variance_groups": late("frac_reward_zero_std"),
        "mean_length": late("completions/mean_length"),
        # A later pass over the same generation (num_iterations > 1) logs no alpha.
        "alpha_min": min(row["alpha/min"] for row in log if "alpha/min" in row),
        "alpha_max": max(row["alpha/max"] for row in log if "alpha/max" in row),
    }
    write_log(context.out, log, metrics)
    curve_plot(log, _CURVES, context.out / "curves.png", "GRPO with dynamic reward scaling")
    phases = {
        f"{name}_seconds": round(sum(row.get(f"time/{name}_s", 0.0) for row in log), 1)
        for name in ("sample", "reward", "step")
    }
    cost = {"tokens": generated_tokens(log, context.config.policy), **phases}
    return {**metrics, **cost, "curves": Plot(context.out / "curves.png", "Training curves by step")}
