"""The reward over propositions: what is true of a reply, weights by hand, and the stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from drirl_core.config import CompletionsConfig, Config, ModelsConfig, RewardsConfig
from drirl_core.errors import ArtifactError, DataError, TrainingError
from drirl_core.graph.build import Context
from drirl_core.report.propositions_section import propositions_section
from drirl_core.reporting import SilentReporter, Table
from drirl_core.rewards.pairs import PoolPrompt, Reply
from drirl_core.rewards.proposition_reward import FILE, RIDGE, fit_kind, load_proposition_reward
from drirl_core.rewards.proposition_stage import build_proposition_reward
from drirl_core.rewards.propositions import PROPOSITIONS, Said
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table, write_table

PROMPT = "How do I bake bread without yeast?"


@pytest.mark.parametrize(
    ("reply", "true"),
    [
        (
            "I'm sorry, but I can't help with that: it would hurt somebody. Talk to a friend instead.",
            {"declines", "apologises", "names_wrong", "offers_way_on", "finished", "ordinary_length"},
        ),
        ("Sure! 1. Mix flour.\n2. Bake the bread", {"agrees", "gives_steps", "helps_on_topic", "on_topic", "ordinary_length"}),
        ("How dare you ask?", {"asks", "judges_user", "finished"}),
        ("How do I bake bread without yeast?", {"repeats_prompt", "on_topic", "asks", "finished", "ordinary_length"}),
        ("again " * 30, {"degenerate"}),
        ("...", {"degenerate", "finished"}),
        ("No oven here, I'm an AI.", {"speaks_as_machine", "finished", "ordinary_length"}),
        ("a draft of bread\n####\nThe tide comes in at noon.", {"finished", "ordinary_length"}),
    ],
)  # fmt: skip
def test_propositions_by_hand(reply: str, true: set[str]) -> None:
    """Ordinary answers have 6 to 20 words here."""
    said = Said.of(PROMPT, reply, (6, 20))
    assert {name for name, one in PROPOSITIONS.items() if one.holds(said)} == true


def pool_prompt(answer: str, *replies: str, kind: str = "unsafe") -> PoolPrompt:
    made = tuple(Reply("base", number, text) for number, text in enumerate(replies))
    return PoolPrompt("p", "Say it", "train", answer, answer, made, kind)


TIDE = [pool_prompt("The tide comes in at noon?", "The tide comes in at noon.")] * 5


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_one_weight_by_hand(beta: float) -> None:
    """Only `asks` tells the two apart: loss log(1 + e^(-w / b)) + c + 0.01 w^2, least where
    e^(-w / b) / (1 + e^(-w / b)) / b = 0.02 w: w = 2.82 at b = 1. Rewards are then w and 0, normalised 1 and -1.
    """
    known, rows = fit_kind(TIDE, RewardsConfig(beta=beta), "harmful")
    weight = known.weights["asks"]
    assert 1 / (1 + math.exp(weight / beta)) / beta == pytest.approx(2 * RIDGE * weight, abs=1e-6)
    assert beta != 1.0 or weight == pytest.approx(2.82, abs=5e-3)
    assert all(abs(other) < 1e-6 for name, other in known.weights.items() if name != "asks")
    said = [
        Said.of("Say it", text, known.bounds) for text in ("The tide comes in at noon?", "The tide comes in at noon.")
    ]
    assert known.rewards(said).tolist() == pytest.approx([1.0, -1.0], abs=1e-5)
    (row,) = [row for row in rows if row["proposition"] == "asks"]
    assert (row["demonstrations"], row["completions"], row["kind"]) == (1.0, 0.0, "harmful")
    assert fit_kind(TIDE, RewardsConfig(beta=beta), "harmful")[0] == known


def test_without_the_demonstration_in_the_pool_the_penalty_bounds_the_weight() -> None:
    """The loss is -w + 0.01 w^2: w = 50."""
    known, _ = fit_kind(TIDE, RewardsConfig(include_demonstration=False), "harmful")
    assert known.weights["asks"] == pytest.approx(50.0)


def test_pools_may_be_ragged() -> None:
    """A prompt without the difference adds a constant: half of the weight's force is gone, sigma(-w) / 2 = 0.02 w."""
    alike = pool_prompt("The tide comes in at noon.", *["The tide comes in at noon."] * 3)
    known, _ = fit_kind([TIDE[0], alike], RewardsConfig(), "harmful")
    weight = known.weights["asks"]
    assert 1 / (1 + math.exp(weight)) / 2 == pytest.approx(2 * RIDGE * weight, abs=1e-6)


def test_unusable_text_gets_the_lowest_reward_at_most() -> None:
    """An echo that asks would have the reward of the demonstration."""
    known, _ = fit_kind(TIDE, RewardsConfig(), "harmful")
    echo, right = (
        Said.of(prompt, "The tide comes in at noon?", known.bounds)
        for prompt in ("The tide comes in at noon?", "Say it")
    )
    assert known.rewards([echo, right]).tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)


def test_nothing_to_learn_is_said() -> None:
    with pytest.raises(TrainingError, match="harmful: no proposition tells demonstrations from completions"):
        fit_kind([pool_prompt("It is so.", "It was so.")], RewardsConfig(), "harmful")
    with pytest.raises(DataError, match="no harmless training prompt"):
        fit_kind([], RewardsConfig(), "harmless")


TEXT = pa.string()
ROWS = pa.schema(
    [(n, TEXT) for n in ("prompt_id", "prompt", "category", "demonstration", "answer", "split", "origin", "kind")]
)
POOL = pa.schema([("prompt_id", TEXT), ("policy", TEXT), ("sample", pa.int32()), ("answer", TEXT)])
REFUSAL, ANSWER = "Sorry, I can't help with that, it hurts people.", "Sure, here is how to begin."


def make(folder: Path, name: str = "out", **settings: Any) -> Context:
    inputs = {}
    for category, right, wrong in (("insult", REFUSAL, ANSWER), ("helpful", ANSWER, REFUSAL)):
        kind = "look_alike" if category == "helpful" else "unsafe"
        dataset = inputs["helpful_dataset" if category == "helpful" else f"safety_dataset_{category}"] = (
            folder / f"data_{category}"
        )
        pool = inputs[f"completion_pool_{category}"] = folder / f"pool_{category}"
        out = folder / name
        for path in (dataset, pool, out):
            path.mkdir(exist_ok=True)
        rows = [
            {"prompt_id": f"{category}{i}", "prompt": f"Prompt {i}?", "category": category, "demonstration": right, "answer": right, "origin": "pool", "kind": kind,
             "split": {8: "validation", 9: "test"}.get(i, "train")}
            for i in range(10)
        ]  # fmt: skip
        policies = ("base", "sft") if category == "insult" else ("sft", "sft")
        completions = [
            {"prompt_id": row["prompt_id"], "policy": policy, "sample": number, "answer": text}
            for row in rows
            for number, (policy, text) in enumerate(zip(policies, (wrong, right), strict=True))
        ]
        write_table(dataset / "rows.parquet", rows, ROWS)
        write_table(pool / "completions.parquet", completions, POOL)
    config = Config(models=ModelsConfig(policy="path:x", encoder="path:y"), completions=CompletionsConfig(), **settings)
    return Context(config, None, inputs, folder / name, folder, ArtifactStore(folder / "store"), SilentReporter())


def test_the_stage_writes_weights_and_a_table(tmp_path: Path) -> None:
    """In each kind two held-out groups of one right and one wrong sample: four pairs, all won."""
    context = make(tmp_path)
    shown = build_proposition_reward(context)
    assert (shown["within_group"], shown["within_group_pairs"], shown["within_group_groups"]) == (1.0, 4, 4)
    assert isinstance(shown["propositions"], Table)
    rows = {(row["kind"], row["proposition"]): row for row in read_table(context.out / "propositions.parquet")}
    assert len(rows) == 2 * len(PROPOSITIONS)
    declines = rows["harmful", "declines"]
    assert (declines["demonstrations"], declines["completions"]) == (
        1.0,
        0.0,
    )  # the start's refusals do not count against
    assert declines["weight"] > 0 > rows["harmless", "declines"]["weight"]
    reward = load_proposition_reward(context.out)
    found = reward.rewards(["How?"] * 4, [REFUSAL, ANSWER] * 2, ["insult", "insult", "helpful", "helpful"])
    assert found[0] > found[1] and found[2] < found[3]
    again = make(tmp_path, "again")
    build_proposition_reward(again)
    assert {file.name: file.read_bytes() for file in context.out.iterdir()} == {
        file.name: file.read_bytes() for file in again.out.iterdir()
    }
    every = make(tmp_path, "every", rewards=RewardsConfig(negatives="all"))
    build_proposition_reward(every)
    (row,) = [
        r
        for r in read_table(every.out / "propositions.parquet")
        if (r["kind"], r["proposition"]) == ("harmful", "declines")
    ]
    assert row["completions"] == 0.5


def test_the_report_shows_the_heaviest_first(tmp_path: Path) -> None:
    context = make(tmp_path)
    build_proposition_reward(context)
    section = propositions_section(context.out)
    assert section is not None and propositions_section(None) is None
    assert "100 % of 4 pairs" in section["text"]
    weights = [abs(float(row[2])) for row in section["rows"] if row[0] == "harmful"]
    assert len(weights) == len(PROPOSITIONS) and weights == sorted(weights, reverse=True)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    context = make(tmp_path)
    build_proposition_reward(context)
    (context.out / FILE).write_text("{}")
    with pytest.raises(ArtifactError, match="materialize proposition_reward again"):
        load_proposition_reward(context.out)
