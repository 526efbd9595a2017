"""The asset `best_of_n_<suite>`: samples of the SFT start on a suite, and which of them the reward models choose.

It is an asset of its own, so that another judge or policy does not repeat the sampling and the rewards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from drirl_core.benchmarks.measure import rounded
from drirl_core.benchmarks.suites import BenchmarkRow, find_suite, load_suite
from drirl_core.errors import ArtifactError, DataError, nearest
from drirl_core.models.sampling import Completion
from drirl_core.reporting import Table
from drirl_core.store.tables import read_table, write_table

if TYPE_CHECKING:
    from drirl_core.graph.build import Context
    from drirl_core.policy.best_of_n import Choice

TABLE, DECODING = "completions.parquet", "decoding.json"
SCHEMA = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("finished", pa.bool_(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("chosen", pa.bool_(), nullable=False),
    ]
)
"""Columns of `completions.parquet`."""


def build_best_of_n(context: Context) -> dict[str, Any]:
    """Sample `benchmarks.best_of` completions of each prompt of a suite, and mark the one with the highest reward.

    Writes `completions.parquet`, with the samples of a prompt one after the other, and `decoding.json`.

    Args:
        context: of the stage; `suite` names the suite.

    Returns:
        Mean expected reward of the chosen completions and of all, tokens, and both rewards by group.

    Raises:
        DataError: the suite cannot be read, or no router can tell which category a prompt is of.
        ArtifactError: there is no SFT start among the inputs.
    """
    from drirl_core.policy.best_of_n import Reranking, open_chooser

    config = context.config
    known = {suite.name: suite for suite in config.benchmarks.suites}
    if context.suite not in known:
        raise DataError(f"suite {context.suite!r} is not in benchmarks.suites; {nearest(str(context.suite), known)}")
    if "sft_checkpoint" not in context.inputs:
        raise ArtifactError(
            f"best_of_n needs sft_checkpoint among its inputs, which are {sorted(context.inputs)}; materialize it first"
        )
    suite, rows = find_suite(known[context.suite]), load_suite(known[context.suite])
    chooser = open_chooser(context.inputs, context.project, context.reporter)
    reranking = Reranking(
        config.benchmarks.best_of, chooser, config.completions.temperature, context.versions, suite.prefill
    )
    context.reporter.log(f"best of {reranking.samples}: {len(rows)} prompts of the suite {suite.name}")
    choices = reranking.decode(
        context.inputs["sft_checkpoint"],
        [row.prompt for row in rows],
        config.benchmarks.max_new_tokens,
        config,
        context.store,
        context.reporter,
    )
    table = [line for row, choice in zip(rows, choices, strict=True) for line in _lines(row, choice)]
    write_table(context.out / TABLE, table, SCHEMA)
    text = json.dumps(reranking.described, sort_keys=True) + "\n"
    (context.out / DECODING).write_text(text, encoding="utf-8")
    groups = dict.fromkeys(row.group for row in rows)
    return {
        "prompts": len(rows),
        "samples": reranking.samples,
        **_rewards(table),
        "tokens": sum(line["tokens"] for line in table),
        "groups": Table(
            [{"group": group, **_rewards([line for line in table if line["group"] == group])} for group in groups]
        ),
    }


def chosen(folder: Path, rows: Sequence[BenchmarkRow]) -> list[Completion]:
    """Return the chosen completion of each row of a suite.

    Args:
        folder: of the artifact.
        rows: N rows of the suite that it was made on.

    Returns:
        N completions, without words that they were made to begin with.

    Raises:
        DataError: the table cannot be read, or is of other rows.
    """
    found = [line for line in read_table(folder / TABLE, SCHEMA.names) if line["chosen"]]
    if [(line["group"], line["prompt_id"]) for line in found] != [(row.group, row.prompt_id) for row in rows]:
        raise DataError(
            f"{folder / TABLE} has chosen completions of {len(found)} prompts, which are not the {len(rows)} of the "
            "suite in their order; materialize it again"
        )
    return [Completion(line["completion"], line["tokens"], line["finished"]) for line in found]


def decoding_of(folder: Path) -> Mapping[str, Any]:
    """Return how the completions of an artifact were made: their `temperature`, and `best_of` how many each is.

    Args:
        folder: of the artifact.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        return json.loads((folder / DECODING).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / DECODING} cannot be read ({error}); materialize it again") from error


def _lines(row: BenchmarkRow, choice: Choice) -> list[dict[str, Any]]:
    place = choice.place
    return [
        {
            "group": row.group,
            "category": row.category,
            "prompt_id": row.prompt_id,
            "sample": number,
            "completion": completion.text,
            "tokens": completion.tokens,
            "finished": completion.finished,
            "reward": rounded(float(reward)),
            "chosen": number == place,
        }
        for number, (completion, reward) in enumerate(zip(choice.completions, choice.rewards, strict=True))
    ]


def _rewards(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean expected reward of the chosen completions, and of all."""
    parts = {
        "expected_reward": [line["reward"] for line in lines if line["chosen"]],
        "expected_reward_of_all": [line["reward"] for line in lines],
    }
    return {name: rounded(sum(values) / len(values)) for name, values in parts.items()}
