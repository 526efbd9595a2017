"""The initial model's own answers to harmless prompts, as targets of supervised fine-tuning.

It answers most harmless prompts already. Answers by another author teach it a style, at the cost of its fluency;
its own leave it unchanged, and what is learned is where to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drirl_core import taxonomy
from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.graph.build import Context
from drirl_core.graph.layout import dataset_name
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.text.chain_of_draft import cut_draft

_HARMLESS = dataset_name(taxonomy.HELPFUL)
_BATCH = 64
_SPARE = 8
"""Tokens sampled beyond those that are learned: read again, a text may have fewer tokens, and its cut is no end."""


def with_own_answers(context: Context, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace the answers to harmless prompts by the initial model's own, where it answers.

    Where its greedy reply is a refusal, empty, degenerate or an echo, the answer of the data set stays.

    Args:
        context: of the stage; `sft.answer_tokens` says how many tokens of an answer are learned.
        rows: training rows with `prompt` and `completion` as messages, and the data set in `category`.

    Returns:
        The rows in order.
    """
    config = context.config
    harmless = [row for row in rows if row["category"] == _HARMLESS]
    prompts = [row["prompt"][-1]["content"] for row in harmless]
    context.reporter.log(f"SFT: own answers of the initial model to {len(prompts)} harmless prompts")
    settings = SamplingSettings(config.sft.answer_tokens + _SPARE, 0.0, _BATCH)
    drawn = sample(
        config.models.policy, prompts, 1, settings,
        models=config.models, store=context.store, reporter=context.reporter, vllm=config.execution.engine,
    )  # fmt: skip
    replies = [cut_draft(completion.text) for (completion,) in drawn]
    own = {
        row["prompt_id"]: reply
        for row, prompt, reply in zip(harmless, prompts, replies, strict=True)
        if label_reply(reply, prompt) == "compliance"
    }
    context.reporter.log(
        f"SFT: {len(own)} of {len(prompts)} harmless prompts are learned with the model's own answer; the others, "
        "which it refuses or does not answer in usable text, with that of the data set"
    )
    return [
        {**row, "completion": [{"role": "assistant", "content": own[row["prompt_id"]]}]}
        if row["category"] == _HARMLESS and row["prompt_id"] in own
        else dict(row)
        for row in rows
    ]
