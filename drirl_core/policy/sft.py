"""Supervised fine-tuning on demonstrations and helpful answers: the start of the demo's policy, and a baseline."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from trl import SFTConfig as TrlSftConfig

from drirl_core import taxonomy
from drirl_core.benchmarks.room import require_room_for_suites
from drirl_core.config import SftConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.models.adapters import adapters_of
from drirl_core.models.context import require_room
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.templates import chat_text
from drirl_core.policy.arguments import Ours, arguments_of
from drirl_core.policy.decision_rows import with_decisions
from drirl_core.policy.lower_states import LowerStates, learned_below
from drirl_core.policy.options import require_options
from drirl_core.policy.own_answers import with_own_answers
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.readme import write_readme
from drirl_core.policy.schedule import dataset_rows
from drirl_core.policy.sft_rows import TokenRow, TokenRows, in_batches_of_one_length, tokenised
from drirl_core.policy.together import SharedSftTrainer
from drirl_core.policy.tracking import tracking_of
from drirl_core.policy.training import (
    STEP_TOKENS,
    TrainingStream,
    common_arguments,
    found_checkpoint,
    passes_over,
    read_log,
    run,
    save_merged,
    write_log,
)
from drirl_core.policy.twins import DECIDED, MATCHED, PROMPTS, TwinCollator, TwinTrainer, units_of
from drirl_core.policy.validation import REPLY_TOKENS, checkpoint_choice
from drirl_core.reporting import Plot, Reporter
from drirl_core.store.tables import read_table

_CURVES = {
    "loss": "loss",
    "mean_token_accuracy": "token accuracy",
    MATCHED: "twins matched",
    DECIDED: "prompts decided",
}
"""Plotted metrics, and how they are called."""
_REPLY_TOKENS = {"answer": REPLY_TOKENS, "demonstration": 4 * REPLY_TOKENS}
"""Longest reply to a validation prompt by `sft.target`; behind a draft the answer comes late."""


def build_sft_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Fine-tune the base policy on the training rows of all data sets.

    Args:
        context: inputs are the data sets of all categories.

    Returns:
        Display metadata: rows, those that were cut or left out, steps, tokens trained on, first and last loss, token
        accuracy, curve.

    Raises:
        ConfigError: an adapter's target is no layer of the model.
        DataError: there are no training rows, or a category loses all of them because they are too long.
        TrainingError: the loss or a weight is not finite.
    """
    require_options(context.config, "sft.trl")
    settings, seed = context.config.sft, context.config.seed
    chosen = training_rows(context, settings, seed)
    if settings.own_answers:
        with PartialState().main_process_first():  # which samples and keeps them, and the others read them
            chosen = with_own_answers(context, chosen)
    policy = load_policy(context.config.models.policy, context.config.models, context.shards)
    adapters = adapters_of(settings.lora, policy.model, "sft.lora", context.config.models.policy)
    require_room_for_all(context, policy)
    read = _read(chosen, policy, settings, context.reporter)
    log_file = context.scratch / "training_log.jsonl"
    stream = TrainingStream("SFT", log_file, context.reporter)
    count = settings.validation_prompts
    length = _REPLY_TOKENS[settings.target]
    choice = checkpoint_choice(context, policy, count, "sft.validation_prompts", length, settings.choose_by)
    tracking = tracking_of(context)
    common = common_arguments(seed, context.scratch, policy.device.type, tracking)
    arguments = sft_arguments(settings, len(read.rows), read.limit, common, context.processes)
    refusing: Sequence[int] = ()
    if settings.decision:
        of_all = replace(settings, rows_per_category=0, helpful_rows=0)
        every = training_rows(context, of_all, seed) if settings.decision_prompts else ()
        read, refusing = with_decisions(context, read, chosen, every, policy.tokenizer)
    units = _units(settings, read, chosen, context.reporter)
    lower = _lower(policy, adapters, read, refusing, context)
    trainer = _trainer(
        settings,
        units,
        read.limit,
        refusing,
        lower,
        model=policy.model,
        args=arguments,
        processing_class=policy.tokenizer,
        peft_config=adapters,
        callbacks=[stream] if choice is None else [choice, stream],
    )
    if trainer.rows != len(read.rows):
        raise TrainingError(
            f"TRL trains on {trainer.rows} of {len(read.rows)} rows, although all of them fit into "
            f"{read.limit} tokens; install the version of TRL that constraints.txt names"
        )
    run(trainer, found_checkpoint("SFT", Path(arguments.output_dir), context.reporter), tracking)
    if not context.first:
        return {}
    found = choice.publish(trainer.model, context.out) if choice else {}
    log = read_log(log_file)
    save_merged(trainer.model, policy, context.out)
    metrics = {
        "rows": len(read.rows),
        **({"twin_pairs": _pairs(units)} if settings.contrast else {}),
        **read.record(),
        "steps": int(trainer.state.global_step),
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "token_accuracy": log[-1].get("mean_token_accuracy", float("nan")),
    }
    write_log(context.out, log, metrics)
    write_readme(context, "sft_checkpoint", metrics)
    curve_plot(log, _CURVES, context.out / "curves.png", "Supervised fine-tuning", "sft")
    tokens = round(sum(row.get(STEP_TOKENS, 0.0) for row in log))
    curves = Plot(context.out / "curves.png", "Loss and token accuracy by step")
    return {**metrics, **policy.rendering, "tokens": tokens, "curves": curves, **found}


def _units(
    settings: SftConfig, read: TokenRows, chosen: Sequence[Mapping[str, Any]], reporter: Reporter
) -> list[list[TokenRow]]:
    """Return the rows that stay together in a batch: twins where they are compared, else every row by itself."""
    if not settings.contrast:
        return units_of(read, {}) if settings.decision else [[row] for row in read.rows]
    twins = {row["prompt_id"]: row["twin_of"] for row in chosen if row["twin_of"]}
    units = units_of(read, twins, mixed=settings.decision > 0)
    if not _pairs(units):
        reporter.log(
            "SFT: sft.contrast compares twins, but no training row has its twin among the training rows; nothing is "
            "compared (a column twin_of of harmless rows names the id of their unsafe prompt)"
        )
    return units


def _lower(
    policy: Policy, adapters: Any, read: TokenRows, refusing: Sequence[int], context: stages.Context
) -> LowerStates | None:
    """Return the states below the adapters of all rows and prompts if `sft.share_lower_layers` asks for them."""
    settings = context.config.sft
    if not settings.share_lower_layers:
        return None
    beside = [prompt for row in read.rows for prompt in row.get(PROMPTS, ())]
    every = [row["input_ids"] for row in (*read.rows, *beside)]
    known = refusing and not settings.contrast  # crossed rows of twins are made in the training
    return learned_below(policy.model, adapters, every if known else (), context.reporter)


def _pairs(units: Sequence[Sequence[TokenRow]]) -> int:
    return sum(unit[0]["pair"] >= 0 for unit in units)


def _trainer(
    settings: SftConfig,
    units: Sequence[Sequence[TokenRow]],
    limit: int,
    refusing: Sequence[int],
    lower: LowerStates | None,
    **arguments: Any,
) -> SharedSftTrainer:
    """Return the trainer: TRL's, or one that compares twins or learns the decision as well."""
    rows = Dataset.from_list(in_batches_of_one_length(units, settings.batch_size, arguments["args"].seed))
    if not settings.contrast and not settings.decision:
        return SharedSftTrainer(train_dataset=rows, **arguments)
    compared = settings.contrast_tokens
    collator = TwinCollator(arguments["processing_class"].pad_token_id, limit, compared)
    return TwinTrainer(
        contrast=settings.contrast,
        compared=compared,
        decision=settings.decision,
        refusing=refusing,
        lower=lower,
        train_dataset=rows,
        data_collator=collator,
        **arguments,
    )


def sft_arguments(
    settings: SftConfig, rows: int, limit: int, common: Mapping[str, Ours], processes: int = 1
) -> TrlSftConfig:
    """Return TRL's arguments for our settings.

    Args:
        settings: epochs, batch size and learning rate.
        rows: number of rows that are trained on.
        limit: tokens per row at most.
        common: arguments that do not depend on the method.
        processes: that share a batch evenly.

    Raises:
        ConfigError: an option of `sft.trl` cannot be used.
    """
    ours = {
        **common,
        **passes_over(rows, settings, "sft", processes),
        "eval_strategy": Ours("no", "sft.validation_prompts"),
        "train_sampling_strategy": Ours("sequential"),  # the rows come in the order of their batches
        "shuffle_dataset": Ours(False),
        "packing": Ours(False),
        "remove_unused_columns": Ours(not settings.contrast and not settings.decision),
        "max_length": Ours(limit, "sft.max_length"),
        "completion_only_loss": Ours(True),
    }
    return arguments_of(TrlSftConfig, "sft.trl", ours, settings.trl)


def _read(rows: Sequence[Mapping[str, Any]], policy: Policy, settings: SftConfig, reporter: Reporter) -> TokenRows:
    """Tokenise the rows, and say what was set aside and what does not fit."""
    for note in policy.notes:
        reporter.log(note)
    limit = min(settings.max_length, policy.context or settings.max_length)
    read = tokenised(policy.tokenizer, rows, limit, settings.answer_tokens)
    if read.said():
        reporter.log(f"SFT: {read.said()}")
    return read


def require_room_for_all(context: stages.Context, policy: Policy) -> None:
    """Refuse prompts that some later stage could not complete, before the first policy is trained.

    Args:
        context: inputs are the data sets; the configuration names the suites.
        policy: the policy.

    Raises:
        DataError: a prompt of a data set or suite leaves no room for a completion in what the policy can read.
    """
    config = context.config
    if policy.context is None:
        return
    require_room_for_suites(config.benchmarks, policy.tokenizer, policy.context)
    longest = max(config.completions.max_new_tokens, config.policy.max_new_tokens)
    for folder in context.datasets().values():
        prompts = [row["prompt"] for row in read_table(folder / "rows.parquet", ("prompt",))]
        rows = {prompt: chat_text(policy.tokenizer, prompt) for prompt in prompts}
        require_room(
            policy.tokenizer, rows, longest, policy.context, "completions.max_new_tokens, policy.max_new_tokens"
        )


def training_rows(context: stages.Context, settings: SftConfig, seed: int) -> list[dict[str, Any]]:
    """Collect prompt and completion messages, id and category from the training split of every data set.

    A harm category gives at most `rows_per_category` rows and the helpful set `helpful_rows`, so that the policy sees
    the other prompts for the first time in reinforcement learning. Where pairs of twins are compared, harmless twins of
    the chosen unsafe prompts are chosen first.

    Raises:
        DataError: there are no training rows.
    """
    helpful, drawn = dataset_name(taxonomy.HELPFUL), {}
    trained = {dataset_name(category): rows for category, rows in dataset_rows(context, "train").items()}
    for name, rows in sorted(trained.items()):
        random.Random(f"{seed}/{name}").shuffle(rows)  # noqa: S311 - reproducible choice, not security
        most = None if name == helpful else settings.rows_per_category or None
        drawn[name] = [{**row, "category": name.removeprefix("safety_dataset_")} for row in rows[:most]]
    if settings.contrast and settings.helpful_rows:
        unsafe = {row["prompt_id"] for name, rows in drawn.items() if name != helpful for row in rows}
        drawn[helpful].sort(key=lambda row: row["twin_of"] not in unsafe)
    drawn[helpful] = drawn[helpful][: settings.helpful_rows or None]
    chosen = [row for rows in drawn.values() for row in rows]
    if not chosen:
        raise DataError("no data set has training rows; check the balance report and demonstrations.quota")
    random.Random(seed).shuffle(chosen)  # noqa: S311 - reproducible order, not security
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [
                {"role": "assistant", "content": row["answer"] if settings.target == "answer" else row["demonstration"]}
            ],
            "prompt_id": row["prompt_id"],
            "category": row["category"],
            "twin_of": row["twin_of"],
        }
        for row in chosen
    ]
