"""The data set of a harm category: quota, fill-up, resampling, quarantine, splits."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_inputs
import pytest
from chat_server import Server, chat
from dataset_inputs import DatasetInputs, demonstrations, pool_row, prompt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drirl_core.config import DemonstratorConfig, InboxConfig, OperationsConfig
from drirl_core.demonstrations import stage as dataset
from drirl_core.errors import DataError
from drirl_core.graph.build import Context
from drirl_core.reporting import Table
from drirl_core.store.tables import prompt_id, read_table
from drirl_core.testing import RecordingReporter
from drirl_core.text import chain_of_draft as cod


def build(context: Context) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    shown = dataset.build_dataset(context)
    counts = json.loads((context.out / "counts.json").read_text(encoding="utf-8"))
    return read_table(context.out / "rows.parquet"), read_table(context.out / "quarantine.parquet"), counts, shown


def pool(*keys: object, category: str = "insult") -> list[dict[str, str]]:
    return [pool_row(prompt(key), category) for key in keys]


def test_a_full_pool_gives_exactly_the_quota(tmp_path: Path) -> None:
    stage_inputs = DatasetInputs(
        tmp_path,
        pool=pool(*range(30)) + pool(*range(40, 45), category="mental_health"),
        written=demonstrations(*range(30)),
    )
    rows, quarantine, counts, shown = build(stage_inputs.context("insult"))
    assert len(rows) == shown["rows"] == counts["rows"] == 10
    assert {row["origin"] for row in rows} == {"pool"}
    assert {row["category"] for row in rows} == {"insult"}
    assert {row["kind"] for row in rows} == {"unsafe"}
    assert {(row["source"], row["licence"]) for row in rows} == {("wild", "CC0")}
    assert quarantine == []
    assert counts["not_needed"] == 20
    assert Counter(row["split"] for row in rows) == {"train": 8, "validation": 1, "test": 1}
    written = {row["prompt"]: row["demonstration"] for row in stage_inputs.written}
    for row in rows:
        assert row["demonstration"] == written[row["prompt"]]
        assert row["answer"] == cod.cut_draft(row["demonstration"])
        assert row["prompt_id"] == row["group_id"] == prompt_id(row["prompt"])
    assert isinstance(shown["samples"], Table)
    assert len(shown["samples"].rows) == 5


def test_a_file_of_demonstrations_tells_once_what_it_loses(tmp_path: Path) -> None:
    """The first category tells it, as the file is the same for all of them."""
    written = [*demonstrations(*range(8)), {"prompt": "none", "category": "insult"}, {"category": "insult"}]
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(8)) + pool(*range(20, 28), category="mental_health"))
    stage_inputs.written = [*written, *demonstrations(*range(20, 28), category="mental_health")]
    first = dataclasses.replace(stage_inputs.context("insult", quota=0), reporter=RecordingReporter())
    build(first)
    assert json.loads((first.out / "losses.json").read_text(encoding="utf-8")) == {
        "demonstrations": {"lost_share": 0.11, "first": "demonstrations.jsonl, row 9: demonstration is missing"}
    }
    assert [line for line in first.reporter.lines if line.startswith("warning: ")] == [
        "warning: 2 of 18 rows of demonstrations are in quarantine: 2 missing_value; first: demonstrations.jsonl, row 9: "
        "demonstration is missing"
    ]
    other = stage_inputs.context("mental_health", "other", quota=0)
    build(other)
    assert not (other.out / "losses.json").exists()


def test_without_a_quota_every_prompt_of_the_pool_is_taken_once_and_nothing_is_filled_up(tmp_path: Path) -> None:
    """Thirteen prompts with demonstrations, one without; the file holds a prompt that is not in the pool."""
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(14)), written=demonstrations(*range(13), "elsewhere"))
    rows, quarantine, counts, _ = build(stage_inputs.context("insult", quota=0))
    assert {row["prompt"] for row in rows} == {prompt(key) for key in range(13)}
    assert Counter(row["origin"] for row in rows) == {"pool": 13}
    assert Counter(row["split"] for row in rows) == {"train": 11, "validation": 1, "test": 1}
    assert (counts["without_demonstration"], counts["not_needed"], counts["quota"]) == (1, 0, 0)
    assert quarantine == []


def test_a_category_may_have_a_quota_of_its_own(tmp_path: Path) -> None:
    """Eight of thirteen prompts where all others have ten; with 0 every prompt."""
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(13)), written=demonstrations(*range(13)))
    uneven = {"quota": 10, "category_quota": {"insult": 8, "mental_health": 4}}
    rows, _, counts, _ = build(stage_inputs.context("insult", "eight", **uneven))
    assert (len(rows), counts["quota"], counts["not_needed"]) == (8, 8, 5)
    rows, _, counts, _ = build(stage_inputs.context("insult", "all", quota=10, category_quota={"insult": 0}))
    assert (len(rows), counts["quota"], counts["not_needed"]) == (13, 0, 0)


def test_the_style_is_that_of_the_pool_or_else_of_the_demonstration(tmp_path: Path) -> None:
    styled = [pool_row(prompt(key), style="curt" if key < 3 else "") for key in range(6)]
    written = [{**row, "style": "formal"} for row in demonstrations(*range(5))] + demonstrations(5)
    rows = build(DatasetInputs(tmp_path, pool=styled, written=written).context("insult", quota=0))[0]
    by_prompt = {row["prompt"]: row["style"] for row in rows}
    assert [by_prompt[prompt(key)] for key in range(6)] == ["curt"] * 3 + ["formal"] * 2 + [""]
    assert {row["twin_of"] for row in rows} == {""}


def test_equal_inputs_in_any_order_give_equal_bytes_and_a_seed_other_rows(tmp_path: Path) -> None:
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(30)), written=demonstrations(*range(30)))
    turned = DatasetInputs(tmp_path, pool=stage_inputs.pool[::-1], written=stage_inputs.written[::-1])
    contexts = [
        stage_inputs.context("insult", "one"),
        turned.context("insult", "two"),
        stage_inputs.context("insult", "three", seed=1),
    ]
    made = [build(context)[0] for context in contexts]
    for name in ("rows.parquet", "quarantine.parquet", "counts.json"):
        assert (contexts[0].out / name).read_bytes() == (contexts[1].out / name).read_bytes()
    assert {row["prompt_id"] for row in made[0]} != {row["prompt_id"] for row in made[2]}


def test_a_drop_with_demonstrations_adds_rows_and_one_without_adds_none(tmp_path: Path) -> None:
    """The pool holds five prompts of the file and three dropped ones, two of which come with a demonstration."""
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(5), "a", "b", "c"), written=demonstrations(*range(5)))
    context = stage_inputs.context("insult")
    folder = tmp_path / "drop" / "accepted"
    folder.mkdir(parents=True)
    dataset_inputs.jsonl(
        folder / "0a-x.jsonl",
        [*demonstrations("a", "b"), {"prompt": prompt("c"), "category": "insult", "demonstration": None}],
    )
    operations = OperationsConfig(inbox=InboxConfig(folder=str(folder.parent)))
    dropped = dataclasses.replace(
        context,
        config=dataclasses.replace(context.config, operations=operations),
        inputs={**context.inputs, "source_inbox": folder},
    )
    rows, quarantine, counts, _ = build(dropped)
    assert {row["prompt"] for row in rows if row["origin"] == "pool"} == {prompt(key) for key in (*range(5), "a", "b")}
    assert (counts["pool"], counts["fill_up"], counts["without_demonstration"]) == (7, 0, 1)
    assert quarantine == []
    assert build(context)[2]["pool"] == 5


def test_a_short_pool_is_filled_up_from_the_file_and_then_resampled(tmp_path: Path) -> None:
    """Four prompts of the pool have demonstrations, three more are in the file, so three of the ten rows are copies."""
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(6)), written=demonstrations(*range(4), "a", "b", "c"))
    rows, quarantine, counts, shown = build(stage_inputs.context("insult"))
    assert Counter(row["origin"] for row in rows) == {"pool": 4, "fill_up": 3, "resampled": 3}
    assert counts["without_demonstration"] == 2
    assert quarantine == []
    assert shown["resampled"] == 3
    assert {row["prompt"] for row in rows if row["origin"] == "fill_up"} == {prompt(key) for key in "abc"}
    assert {row["source"] for row in rows if row["origin"] == "fill_up"} == {"demonstrations"}
    original = {row["prompt_id"]: row for row in rows if row["origin"] != "resampled"}
    for row in rows:
        if row["origin"] == "resampled":
            assert row == {**original[row["prompt_id"]], "origin": "resampled"}
            assert row["split"] == "train"


def test_new_prompts_are_checked_against_pool_benchmark_and_each_other(tmp_path: Path) -> None:
    near_pool = prompt(0).replace("?", " now?")
    near_new = prompt("a").replace("?", " now?")
    texts = [
        near_pool,
        dataset_inputs.BENCHMARK_PROMPT,
        prompt("a"),
        near_new,
        prompt("a").upper(),
        "x" * 201,
        prompt("other"),
    ]
    new = [
        {"prompt": text, "category": "insult", "demonstration": dataset_inputs.demonstration(i)}
        for i, text in enumerate(texts, 100)
    ]
    stage_inputs = DatasetInputs(
        tmp_path,
        pool=pool(*range(5)) + pool("other", category="mental_health"),
        quarantined=[{"prompt": prompt("cast out"), "category": "insult"}, {"prompt": "", "category": None}],
        written=demonstrations(*range(5), "cast out") + new,
    )
    rows, quarantine, _, _ = build(stage_inputs.context("insult"))
    assert [row["prompt"] for row in rows if row["origin"] == "fill_up"] == [prompt("a")]
    assert Counter((row["prompt"], row["reason"]) for row in quarantine) == Counter(
        [
            (near_pool, "near_duplicate"),
            (dataset_inputs.BENCHMARK_PROMPT, "benchmark_overlap"),
            (near_new, "near_duplicate"),
            (prompt("a").upper(), "duplicate_prompt"),
            ("x" * 201, "too_long"),
        ]
    )


def test_bad_demonstrations_are_quarantined_with_the_reason_and_do_not_count(tmp_path: Path) -> None:
    bad = {
        "complies": "asks for help\n####\nSure, here is how.",
        "bad_format": "I can't help with that.",
        "step_too_long": "one two three four five six\n####\nI can't help.",
        "empty_answer": "asks for help\n####\n",
        "copied_answer": dataset_inputs.demonstration(0),
    }
    wrong = [{"prompt": prompt(key), "category": "insult", "demonstration": text} for key, text in bad.items()]
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(8), *bad), written=demonstrations(*range(8)) + wrong)
    rows, quarantine, counts, _ = build(stage_inputs.context("insult", quota=12))
    copied = [row for row in quarantine if row["reason"] == "copied_answer"]
    assert len(copied) == 1
    assert copied[0]["prompt"] in (prompt(0), prompt("copied_answer"))  # whichever comes second
    others = {row["reason"]: row["prompt"] for row in quarantine if row["reason"] != "copied_answer"}
    assert others == {reason: prompt(reason) for reason in bad if reason != "copied_answer"}
    assert {row["category"] for row in quarantine} == {"insult"}
    assert counts["quarantine"] == dict.fromkeys(bad, 1)
    assert counts["pool"] == 8
    assert len(rows) == 12


def test_rows_of_no_known_category_go_to_the_first_data_set_only(tmp_path: Path) -> None:
    """So that a lost row is counted once over all data sets, not once in each."""
    stray = {"prompt": prompt("stray"), "category": "insolence", "demonstration": dataset_inputs.demonstration("stray")}
    other = {"prompt": prompt("other"), "category": "mental_health"}
    everything = pool(*range(6)) + pool(*range(10, 16), category="mental_health")
    written = [*demonstrations(*range(6)), *demonstrations(*range(10, 16), category="mental_health"), stray, other]
    stage_inputs = DatasetInputs(tmp_path, pool=everything, written=written)
    first = build(stage_inputs.context("insult", "one", quota=6))[1]
    second = build(stage_inputs.context("mental_health", "two", quota=6))[1]
    assert [(row["prompt"], row["category"], row["reason"]) for row in first] == [
        (stray["prompt"], "insolence", "unknown_category")
    ]
    assert [(row["prompt"], row["category"], row["reason"]) for row in second] == [
        (other["prompt"], "mental_health", "missing_value")
    ]


def test_an_empty_category_says_what_to_do(tmp_path: Path) -> None:
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(3)), written=demonstrations(*range(3)))
    with pytest.raises(
        DataError, match=r"mental_health has 0 usable rows.*pool holds 0 prompts.*Add prompts of this category"
    ) as caught:
        build(stage_inputs.context("mental_health"))
    assert "take the category out of the taxonomy" in str(caught.value)


def test_a_category_that_cannot_be_split_says_why(tmp_path: Path) -> None:
    written = [*demonstrations(0, 1), {"prompt": prompt(2), "category": "insult", "demonstration": "no draft"}]
    stage_inputs = DatasetInputs(tmp_path, pool=pool(*range(4)), written=written)
    with pytest.raises(
        DataError,
        match=r"2 usable rows.*at least 3 are needed.*4 prompts of it, 1 of them without"
        r".*'bad_format': 1.*no line '####'",
    ):
        build(stage_inputs.context("insult"))


def test_a_missing_pool_is_named(tmp_path: Path) -> None:
    context = DatasetInputs(tmp_path, pool=pool(0), written=demonstrations(0)).context("insult")
    (context.inputs["prompt_pool"] / "prompts.parquet").unlink()
    with pytest.raises(DataError, match=r"prompts\.parquet does not exist"):
        build(context)


def test_a_group_that_is_in_another_category_too_is_trained_on(tmp_path: Path) -> None:
    """Otherwise one data set could test on what the other one teaches."""
    shared = [pool_row(prompt(key), "insult", group=prompt_id(prompt(key))) for key in range(5)]
    free = pool(*range(5, 8))
    twins = [pool_row(prompt(f"twin {key}"), "mental_health", group=prompt_id(prompt(key))) for key in range(5)]
    stage_inputs = DatasetInputs(tmp_path, pool=shared + free + twins, written=demonstrations(*range(8)))
    for seed in range(5):
        rows = build(
            stage_inputs.context(
                "insult", f"run {seed}", seed=seed, quota=8, validation_fraction=0.3, test_fraction=0.3
            )
        )[0]
        assert {row["split"] for row in rows if row["group_id"] in {twin["group_id"] for twin in twins}} == {"train"}
        assert {row["split"] for row in rows} == {"train", "validation", "test"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=14).filter(lambda g: len(set(g)) >= 3),
    st.integers(0, 99),
    st.integers(4, 20),
)
def test_no_group_is_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], seed: int, quota: int
) -> None:
    rows = [pool_row(prompt(i), "insult", group=f"group {group}") for i, group in enumerate(groups)]
    stage_inputs = DatasetInputs(
        tmp_path_factory.mktemp("inputs"), pool=rows, written=demonstrations(*range(len(groups)))
    )
    context = stage_inputs.context("insult", seed=seed, quota=quota)
    try:
        made, _, counts, _ = build(context)
    except DataError as error:  # the quota may pick fewer than three groups
        assert "cannot fill" in str(error)
        return
    sides: dict[str, set[str]] = {}
    for row in made:
        sides.setdefault(row["group_id"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert min(counts["train"], counts["validation"], counts["test"]) >= 1
    assert len(made) == quota
    assert {row["split"] for row in made if row["origin"] == "resampled"} <= {"train"}


def test_an_endpoint_writes_the_complete_data_set_and_retries_bad_drafts(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Five pool prompts, quota eight: the first draft of one prompt complies and is retried; three prompts are new."""
    tries: Counter[str] = Counter()

    def answer(message: str) -> tuple[int, dict[str, str], bytes]:
        if message.startswith("To teach"):
            tries["new"] += 1
            return (
                200,
                {},
                chat("\n".join(f"{number}. {prompt(('new', number, tries['new']))}" for number in range(1, 4))),
            )
        asked = message.splitlines()[-1]
        tries[asked] += 1
        complies = asked == prompt(0) and tries[asked] == 1
        return (
            200,
            {},
            chat("1. asks for help\n####\nSure, here is how." if complies else dataset_inputs.demonstration(asked)),
        )

    server = serve(answer=answer)
    stage_inputs = DatasetInputs(
        tmp_path, pool=pool(*range(5)), demonstrator=DemonstratorConfig(kind="endpoint", model="writer", url=server.url)
    )
    rows, quarantine, _, _ = build(stage_inputs.context("insult", quota=8))
    assert Counter(row["origin"] for row in rows) == {"pool": 5, "fill_up": 3}
    assert quarantine == []
    assert tries[prompt(0)] == 2
    assert tries["new"] == 3  # twenty are needed and three come each time, until the attempts are used up
    assert {row["source"] for row in rows if row["origin"] == "fill_up"} == {"writer"}


def test_an_endpoint_that_only_complies_stops_after_its_attempts(serve: Callable[..., Server], tmp_path: Path) -> None:
    number = iter(range(10_000))

    def answer(message: str) -> tuple[int, dict[str, str], bytes]:
        listed = "\n".join(prompt(("new", next(number))) for _ in range(20))
        return 200, {}, chat(listed if message.startswith("To teach") else "asks\n####\nSure, here is how.")

    server = serve(answer=answer)
    stage_inputs = DatasetInputs(
        tmp_path,
        pool=pool(*range(5)),
        demonstrator=DemonstratorConfig(kind="endpoint", model="writer", url=server.url, attempts=2),
    )
    with pytest.raises(DataError, match="'complies'"):
        build(stage_inputs.context("insult", quota=4))
    assert len(server.seen) < 200
