"""Supervised fine-tuning on demonstrations and helpful answers: the start of the demo's policy, and a baseline."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from drirl_core import taxonomy
from drirl_core.config import SftConfig
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.models.loading import load_policy
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.readme import write_readme
from drirl_core.policy.training import (
    STEP_TOKENS,
    TrainingStream,
    common_arguments,
    last_checkpoint,
    peft_config,
    read_log,
    run,
    save_merged,
    write_log,
)
from drirl_core.reporting import Plot
from drirl_core.store.tables import read_table


def build_sft_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Fine-tune the base policy on the training rows of all data sets.

    Args:
        context: inputs are the data sets of all categories.

    Returns:
        Display metadata: rows, steps, tokens trained on, first and last loss, token accuracy, curve.

    Raises:
        DataError: there are no training rows.
        TrainingError: the loss or a weight is not finite.
    """
    settings, seed = context.config.sft, context.config.seed
    rows = training_rows(context, settings, seed)
    policy = load_policy(context.config.models.policy, context.config.models)
    log_file = context.scratch / "training_log.jsonl"
    stream = TrainingStream("SFT", log_file, context.reporter)
    steps_per_epoch = -(-len(rows) // settings.batch_size)
    arguments = TrlSftConfig(
        **common_arguments(seed, context.scratch, policy),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps_per_epoch // 10),
        save_steps=max(1, steps_per_epoch // 2),
        max_length=settings.max_length,
        completion_only_loss=True,
    )
    trainer = SFTTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        peft_config=peft_config(settings.lora, policy.depth),
        callbacks=[stream],
    )
    checkpoint = last_checkpoint(Path(arguments.output_dir))
    if checkpoint:
        context.reporter.log(f"SFT resumes from {checkpoint.name}")
    run(trainer, checkpoint)
    log = read_log(log_file)
    save_merged(trainer.model, policy, context.out)
    metrics = {
        "rows": len(rows),
        "steps": int(trainer.state.global_step),
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "token_accuracy": log[-1].get("mean_token_accuracy", float("nan")),
    }
    write_log(context.out, log, metrics)
    write_readme(context, "sft_checkpoint", metrics)
    curve_plot(
        log,
        {"loss": "loss", "mean_token_accuracy": "token accuracy"},
        context.out / "curves.png",
        "Supervised fine-tuning",
        "sft",
    )
    tokens = round(sum(row.get(STEP_TOKENS, 0.0) for row in log))
    return {**metrics, "tokens": tokens, "curves": Plot(context.out / "curves.png", "Loss and token accuracy by step")}


def training_rows(context: stages.Context, settings: SftConfig, seed: int) -> list[dict[str, Any]]:
    """Collect prompt and completion messages from the training split of every data set.

    A harm category gives at most `rows_per_category` rows, so that the policy sees the other prompts for the first time
    in reinforcement learning. The helpful set gives all its rows.

    Raises:
        DataError: there are no training rows.
    """
    chosen: list[dict[str, Any]] = []
    for name in sorted(n for n in context.inputs if n.endswith("_dataset") or n.startswith("safety_dataset_")):
        rows = [row for row in read_table(context.inputs[name] / "rows.parquet") if row["split"] == "train"]
        random.Random(f"{seed}/{name}").shuffle(rows)  # noqa: S311 - reproducible choice, not security
        limit = settings.rows_per_category if name != dataset_name(taxonomy.HELPFUL) else 0
        chosen += rows[: limit or None]
    if not chosen:
        raise DataError("no data set has training rows; check the balance report and demonstrations.quota")
    random.Random(seed).shuffle(chosen)  # noqa: S311 - reproducible order, not security
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [
                {"role": "assistant", "content": row["answer"] if settings.target == "answer" else row["demonstration"]}
            ],
        }
        for row in chosen
    ]
