"""The policy checkpoint: GRPO with dynamic reward scaling, from start to merged weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from trl import GRPOConfig, RLOOConfig

from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.config import PolicyConfig
from drirl_core.graph import build as stages
from drirl_core.graph.policies import CHECKPOINTS
from drirl_core.graph.rounds import ROUND_POLICIES
from drirl_core.models.adapters import adapters_of
from drirl_core.models.embeddings import RECORD
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import reader_of_completions
from drirl_core.policy.arguments import Ours, arguments_of
from drirl_core.policy.lower_states import LowerStates, lower_states
from drirl_core.policy.options import require_options
from drirl_core.policy.own_rewards import load_own_rewards, mean_metric
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.readme import write_readme
from drirl_core.policy.schedule import schedule, training_prompts, with_room
from drirl_core.policy.scoring import load_scorer
from drirl_core.policy.sft_rows import first
from drirl_core.policy.sharded_states import read_together
from drirl_core.policy.shared_states import shared_states
from drirl_core.policy.shares import micro_batch
from drirl_core.policy.spread import SHARE
from drirl_core.policy.staging import ReferenceRenewal, hardness_of_prompts
from drirl_core.policy.tracking import tracking_of
from drirl_core.policy.trainer import DynamicRewardScalingTrainer, ScaledRlooTrainer
from drirl_core.policy.training import (
    TrainingStream,
    checkpoint_state,
    common_arguments,
    found_checkpoint,
    read_log,
    run,
    save_merged,
    write_log,
)
from drirl_core.policy.validation import REPLY_TOKENS, checkpoint_choice
from drirl_core.reporting import Plot, Reporter

Method = Literal["GRPO", "RLOO"]

SAMPLING = frozenset(
    {
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "generation_kwargs",
        "cache_implementation",
        "use_vllm",
        "use_transformers_continuous_batching",
        "use_transformers_paged",
    }
)
"""Options under which TRL's own sampler draws the completions: ours on a CPU knows the temperature alone."""
_TITLES = {
    ALIGNED: "GRPO with dynamic reward scaling",
    "grpo": "GRPO without reward scaling",
    "verifiable": "GRPO with the verifiable reward",
    "propositions": "GRPO with the reward over propositions",
    "joint": "GRPO with one reward model for all categories",
    "staged_competence": "GRPO in stages of growing hardness",
    "rloo": "RLOO without reward scaling",
    "rloo_s": "RLOO with dynamic reward scaling",
    **{name: f"GRPO in round {number}" for number, name in enumerate(ROUND_POLICIES, 1)},
}
"""Titles of the pictures, by name of the policy in results."""
_CURVES = {
    "reward": "reward",
    "kl": "KL to the start (nats per token)",
    "entropy": "entropy (nats)",
    "frac_reward_zero_std": "groups without variance",
    SHARE: "groups below min_spread",
    "completions/mean_length": "completion length (tokens)",
    "alpha/std": "spread of alpha",
    "refused/unsafe": "refused, unsafe prompts (rollouts)",
    "refused/look_alike": "refused, look-alikes (rollouts)",
    "over_refusal/log_multiplier": "log weight of harmless rows",
}


def build_policy_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy: GRPO whose advantages are scaled by alpha (docs/method.md, section 5).

    Args:
        context: inputs are all data sets, reward models and hardness tables, and the checkpoint that is the start, if
            it is not the initial model.

    Returns:
        Display metadata: first and last reward, KL, entropy, alpha, tokens generated, seconds per phase, curves.

    Raises:
        ConfigError: an adapter's target is no layer of the model.
        DataError: a data set has no training rows, or all its prompts are too long to be completed.
        TrainingError: a reward, alpha, loss or weight is not finite.
    """
    return align(context, ALIGNED)


def align(context: stages.Context, name: str, method: Method = "GRPO", *, publish_last: bool = False) -> dict[str, Any]:
    """Train a policy on its own samples; see `build_policy_checkpoint`.

    Args:
        context: of the stage, with its configuration.
        name: of the policy in results, or its asset where it is in none.
        method: GRPO, or RLOO, whose advantage is the reward minus the mean reward of the group's other completions.
        publish_last: whether the last step is published even where validation prompts would choose another one.
    """
    require_options(context.config, "policy.rloo_trl" if method == "RLOO" else "policy.trl")
    config, seed = context.config, context.config.seed_of(context.config.policy)
    start = _start(context)
    load_own_rewards(config.policy.own_rewards)  # refused before weights are loaded
    prompts = training_prompts(context)
    policy = load_policy(start, config.models, context.shards)
    adapters = adapters_of(config.policy.lora, policy.model, "policy.lora", config.models.policy)
    prompts, left_out = with_room(prompts, policy.tokenizer, config.policy.max_new_tokens, policy.context)
    rows = schedule(prompts, config.policy, seed, _hardness(context))
    _say(context.reporter, method, policy, left_out)
    scorer = load_scorer(context)
    log_file = context.scratch / "training_log.jsonl"
    stream = TrainingStream(method, log_file, context.reporter, scorer.state_dict)
    count, length = config.policy.validation_prompts, max(config.policy.max_new_tokens, REPLY_TOKENS)
    choice = checkpoint_choice(context, policy, count, "policy.validation_prompts", length)
    renewal = ReferenceRenewal(config.policy, context.reporter) if config.policy.renew_reference else None
    trainer_class, made = _TRAINERS[method]
    tracking = tracking_of(context)
    common = common_arguments(seed, context.scratch, policy.device.type, tracking)
    arguments = made(config.policy, common, context.processes)
    trainer = trainer_class(
        coefficient=scorer,
        exact_sampling=policy.device.type == "cpu" and not SAMPLING & options_of(config.policy, method).keys(),
        read_completion=reader_of_completions(policy.tokenizer),
        shared=shared_states(policy, scorer, config.policy),
        lower=_lower(policy, adapters, context),
        model=policy.model,
        reward_funcs=read_together(scorer, config.models, context.shards),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        peft_config=adapters,
        callbacks=[one for one in (choice, renewal, stream) if one],  # the stream marks a checkpoint as complete
    )
    if renewal:
        renewal.attach(trainer)
    checkpoint = found_checkpoint(method, Path(arguments.output_dir), context.reporter)
    if checkpoint:
        scorer.load_state_dict(checkpoint_state(checkpoint))
    run(trainer, checkpoint, tracking)
    if not context.first:
        return {}
    found = {}
    if choice:
        found = choice.publish_last(context.out) if publish_last else choice.publish(trainer.model, context.out)
    shown = _finish(context, name, policy, trainer, read_log(log_file))
    return {**shown, **policy.rendering, **RECORD, **_record(left_out), **found}


def _start(context: stages.Context) -> str | Path:
    """Return what a policy starts from: the policy of the previous round if that is an input, else `policy.start`."""
    before = next((context.inputs[name] for name in ROUND_POLICIES if name in context.inputs), None)
    if before is not None:
        return before
    config = context.config
    return context.inputs["sft_checkpoint"] if config.policy.start == "sft" else config.models.policy


def _hardness(context: stages.Context) -> dict[str, float] | None:
    """Return the hardness of the prompts where it decides their order."""
    return hardness_of_prompts(context) if context.config.policy.order == "hardness" else None


def _lower(policy: Policy, adapters: Any, context: stages.Context) -> LowerStates | None:
    """Return what shares the layers below the adapters if `policy.share_lower_layers` asks for it, or say why not."""
    settings = context.config.policy
    if not settings.share_lower_layers:
        return None
    found = lower_states(policy.model, adapters) if settings.kl else None  # they are kept in the reference's pass
    if found is None:
        context.reporter.log(
            "policy.share_lower_layers is on, but the update computes all layers: lower ones are shared on a CPU, with "
            "policy.kl and policy.lora.first_layer above 0, and a model whose layers can be entered by their states "
            "alone"
        )
    return found


def _say(reporter: Reporter, method: Method, policy: Policy, left_out: Sequence[str]) -> None:
    """Log what was set aside when the policy was loaded, and the prompts that cannot be rolled out."""
    for note in policy.notes:
        reporter.log(note)
    if left_out:
        reporter.log(
            f"{method}: {len(left_out)} prompts leave no room for a completion in the {policy.context} tokens that the "
            f"model can read, and are left out: {first(left_out)}"
        )


def _record(left_out: Sequence[str]) -> dict[str, int | str]:
    counts: dict[str, int | str] = {"prompts_left_out": len(left_out)}
    return {**counts, "first_left_out": first(left_out)} if left_out else counts


def grpo_arguments(settings: PolicyConfig, common: Mapping[str, Ours], processes: int = 1) -> GRPOConfig:
    """Return TRL's arguments for our settings.

    Raises:
        ConfigError: an option of `policy.trl` cannot be used.
    """
    ours = {
        **_of_both(settings, common, processes),
        "loss_type": Ours(settings.loss, "policy.loss"),
        "scale_rewards": Ours(settings.scale_rewards, "policy.scale_rewards"),
    }
    return arguments_of(GRPOConfig, "policy.trl", ours, settings.trl)


def rloo_arguments(settings: PolicyConfig, common: Mapping[str, Ours], processes: int = 1) -> RLOOConfig:
    """Return TRL's arguments for our settings; the KL is part of RLOO's reward, with the same weight.

    Raises:
        ConfigError: an option of `policy.rloo_trl` cannot be used.
    """
    ours = {**_of_both(settings, common, processes), "normalize_advantages": Ours(False)}
    return arguments_of(RLOOConfig, "policy.rloo_trl", ours, settings.rloo_trl)


def options_of(settings: PolicyConfig, method: Method) -> Mapping[str, Any]:
    """Return the user's options of a method's trainer."""
    return settings.rloo_trl if method == "RLOO" else settings.trl


def _of_both(settings: PolicyConfig, common: Mapping[str, Ours], processes: int) -> dict[str, Ours]:
    batch = settings.prompts_per_step * settings.num_generations // processes  # of this process
    micro, of_step = micro_batch(settings, batch), "policy.prompts_per_step and policy.num_generations"
    return {
        **common,
        "seed": Ours(common["seed"].value, "policy.seed"),
        "data_seed": Ours(common["data_seed"].value, "policy.seed"),
        "eval_strategy": Ours("no", "policy.validation_prompts"),
        "max_steps": Ours(settings.steps * settings.num_iterations, "policy.steps"),
        "per_device_train_batch_size": Ours(micro, "policy.micro_batch"),
        "gradient_accumulation_steps": Ours(batch // micro, "policy.micro_batch"),
        "steps_per_generation": Ours(batch // micro, of_step),
        "generation_batch_size": Ours(None, of_step),
        "num_generations": Ours(settings.num_generations, "policy.num_generations"),
        "num_iterations": Ours(settings.num_iterations, "policy.num_iterations"),
        "max_completion_length": Ours(settings.max_new_tokens, "policy.max_new_tokens"),
        "temperature": Ours(settings.temperature, "policy.temperature"),
        "beta": Ours(settings.kl, "policy.kl"),
        "epsilon": Ours(settings.epsilon, "policy.epsilon"),
        "learning_rate": Ours(settings.learning_rate, "policy.learning_rate"),
        # a resumed run generates first, so only between generations
        "save_steps": Ours(settings.save_steps * settings.num_iterations, "policy.save_steps"),
        "shuffle_dataset": Ours(False),
        "remove_unused_columns": Ours(False),  # the reward reads category and demonstration
        "log_completions": Ours(False),
    }


_TRAINERS: Mapping[Method, tuple[Any, Any]] = {
    "GRPO": (DynamicRewardScalingTrainer, grpo_arguments),
    "RLOO": (ScaledRlooTrainer, rloo_arguments),
}
"""Trainer of a method, and what makes its arguments."""


def generated_tokens(log: Sequence[Mapping[str, float]], settings: PolicyConfig) -> int:
    """Count the tokens of all completions of a training run.

    Args:
        log: one row per step; only a step that generated has a mean length.
        settings: completions per step.
    """
    completions = settings.prompts_per_step * settings.num_generations
    return round(sum(row.get("completions/mean_length", 0.0) * completions for row in log))


def _finish(
    context: stages.Context, name: str, policy: Policy, trainer: Any, log: list[dict[str, float]]
) -> dict[str, Any]:
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
    if context.config.policy.min_spread:
        metrics["groups_below_min_spread"] = late(SHARE)
    write_log(context.out, log, metrics)
    write_readme(context, CHECKPOINTS.get(name, name), metrics)
    own = {mean_metric(one.function): one.function.rpartition(".")[2] for one in context.config.policy.own_rewards}
    shown = _CURVES | ({"kl": "KL to the stage's reference"} if context.config.policy.renew_reference else {}) | own
    curve_plot(log, shown, context.out / "curves.png", _TITLES[name], name if name in CHECKPOINTS else ALIGNED)
    phases = {
        f"{phase}_seconds": round(sum(row.get(f"time/{phase}_s", 0.0) for row in log), 1)
        for phase in ("sample", "reward", "step")
    }
    cost = {"tokens": generated_tokens(log, context.config.policy), **phases}
    return {**metrics, **cost, "curves": Plot(context.out / "curves.png", "Training curves by step")}
