"""The completion pool: sampled and contrast completions, and equal bytes for equal inputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.completions.stage import SCHEMA, build_completion_pool, contrast, corrupt, hedge
from drirl_core.config import Config, load_config
from drirl_core.errors import DataError
from drirl_core.graph.build import Context
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import prompt_id, read_table, write_table
from drirl_core.testing import RecordingReporter, make_tiny_policy, tiny_settings

WORDS = st.lists(st.text("abcdefg", min_size=1, max_size=4), min_size=4, max_size=30)


def _rows(count: int, *, same_answer: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": prompt_id(f"prompt {i}"),
            "prompt": f"prompt {i}",
            "answer": "All the same answer here." if same_answer else f"Answer number {i} in words.",
            "origin": "pool",
            "split": "train",
        }
        for i in range(count)
    ]


# ------------------------------------------------------------------------------------------------------------- contrast


COUNTS = {"refusal": 2, "hedged": 1, "off_topic": 1, "corrupted": 3}


def test_contrast_of_the_helpful_set() -> None:
    """5 prompts: 2 refusals, 1 hedged answer, 1 answer of another prompt and 3 corrupted answers each make 35 rows."""
    rows, refusals = _rows(5), ["No.", "I can't.", "Never."]
    made = contrast(rows, refusals, COUNTS, helpful=True)
    assert Counter(row["policy"] for row in made) == {"refusal": 10, "hedged": 5, "off_topic": 5, "corrupted": 15}
    answers = {row["prompt_id"]: row["answer"] for row in rows}
    for row in rows:
        own = [m for m in made if m["prompt_id"] == row["prompt_id"]]
        refused = [m["completion"] for m in own if m["policy"] == "refusal"]
        assert len(set(refused)) == 2
        assert set(refused) <= set(refusals)
        (hedged,) = (m["completion"] for m in own if m["policy"] == "hedged")
        assert any(refusal.rstrip(".") in hedged for refusal in refusals)
        (off_topic,) = (m["completion"] for m in own if m["policy"] == "off_topic")
        assert off_topic in answers.values()
        assert off_topic != row["answer"]
        assert [m["sample"] for m in own if m["policy"] == "corrupted"] == [0, 1, 2]
        assert all(m["completion"] != row["answer"] for m in own)
        assert all((m["tokens"], m["finished"]) == (0, True) for m in own)


def test_a_harm_set_is_contrasted_with_answers_to_harmless_prompts() -> None:
    harmless = ["Boil it for six minutes.", "Purring calms a cat.", "Six metres."]
    made = contrast(
        _rows(4), ["No."], {"compliance": 2, "refusal": 1, "off_topic": 1}, helpful=False, harmless=harmless
    )
    assert Counter(row["policy"] for row in made) == {"compliance": 8}
    for row in _rows(4):
        own = [m["completion"] for m in made if m["prompt_id"] == row["prompt_id"]]
        assert len(set(own)) == 2 and set(own) <= set(harmless)
    assert contrast(_rows(2), [], {"compliance": 5}, helpful=True, harmless=harmless) == []
    few = contrast(_rows(1), [], {"compliance": 5}, helpful=False, harmless=harmless[:1])
    assert [m["completion"] for m in few] == harmless[:1]


def test_contrast_of_a_harm_set_is_corrupted_text_only() -> None:
    """To a harmful prompt a refusal is right, and so is another prompt's safe answer."""
    made = contrast(_rows(4), ["No."], COUNTS, helpful=False)
    assert Counter(row["policy"] for row in made) == {"corrupted": 12}


def test_contrast_is_the_same_for_equal_rows_in_any_order() -> None:
    rows, refusals = _rows(6), ["No.", "I can't.", "Never."]
    first = contrast(rows, refusals, COUNTS, helpful=True)
    assert contrast(rows, refusals, COUNTS, helpful=True) == first
    harm = sorted(contrast(rows, [], COUNTS, helpful=False), key=lambda m: (m["prompt_id"], m["sample"]))
    assert sorted(contrast(rows[::-1], [], COUNTS, helpful=False), key=lambda m: (m["prompt_id"], m["sample"])) == harm


def test_contrast_adds_at_most_what_is_available() -> None:
    made = contrast(_rows(2), ["No."], {"refusal": 5, "off_topic": 5}, helpful=True)
    assert Counter(row["policy"] for row in made) == {"refusal": 2, "off_topic": 2}
    assert contrast(_rows(1), [], {"refusal": 1, "off_topic": 1}, helpful=True) == []
    assert contrast([], ["No."], COUNTS, helpful=True) == []


def test_an_equal_answer_of_another_prompt_is_not_off_topic() -> None:
    assert contrast(_rows(4, same_answer=True), [], {"off_topic": 2}, helpful=True) == []


# ---------------------------------------------------------------------------------------------------------------- hedge


def test_a_hedged_answer_helps_and_declines() -> None:
    """The declining sentence is placed before, after or between the others; the rest of the refusal is left out."""
    answer, refusal = "Boil it for six minutes. Then cool it.", "I can't help with that. It could be misused."
    assert {hedge(answer, refusal, str(seed)) for seed in range(20)} == {
        "I can't help with that. Boil it for six minutes. Then cool it.",
        "Boil it for six minutes. I can't help with that. Then cool it.",
        "Boil it for six minutes. Then cool it. I can't help with that.",
    }
    assert hedge(answer, refusal, "a") == hedge(answer, refusal, "a")


def test_an_answer_of_one_sentence_is_hedged_at_a_clause() -> None:
    made = {hedge("Boil it for six minutes, then cool it under water.", "I decline.", str(seed)) for seed in range(20)}
    assert "Boil it for six minutes, and I decline, then cool it under water." in made
    assert len(made) == 3
    assert "Wait and I decline," in {hedge("Wait", "I decline.", str(seed)) for seed in range(20)}


# -------------------------------------------------------------------------------------------------------------- corrupt


@given(WORDS, st.text("xyz0123456789", max_size=6))
def test_corrupted_text_differs_and_is_reproducible(words: list[str], seed: str) -> None:
    text = " ".join(words)
    broken = corrupt(text, seed)
    assert broken != text
    assert broken.split()
    assert set(broken.split()) <= set(words)
    assert corrupt(text, seed) == broken


@given(st.text(max_size=30), st.text(max_size=5))
def test_any_text_can_be_corrupted(text: str, seed: str) -> None:
    assert isinstance(corrupt(text, seed), str)


def test_one_repeated_word_can_be_corrupted() -> None:
    """No order of four equal words differs from another: shuffling until it does would never end."""
    for seed in map(str, range(12)):
        assert corrupt("no no no no", seed) != "no no no no"


def test_all_three_kinds_of_damage_occur() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    kinds = Counter()
    for seed in map(str, range(60)):
        broken = corrupt(" ".join(words), seed).split()
        kinds["cut" if len(broken) < 4 else "shuffled" if sorted(broken) == sorted(words) else "loop"] += 1
        if len(broken) > len(words):
            assert max(Counter(broken).values()) >= 4
    assert min(kinds[kind] for kind in ("cut", "shuffled", "loop")) >= 10


# ---------------------------------------------------------------------------------------------------------------- stage


DATASET = pa.schema([(name, pa.string()) for name in ("prompt_id", "prompt", "answer", "origin", "split")])


@pytest.fixture(scope="module")
def second_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_policy(tmp_path_factory.mktemp("models") / "sft", seed=1)


@pytest.fixture
def config(tiny_policy: Path, tiny_encoder: Path, tmp_path: Path) -> Config:
    import yaml

    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tiny_settings(tiny_policy, tiny_encoder, tmp_path / "artifacts")))
    return load_config(file, {"completions.samples": {"base": 2, "sft": 1}, "completions.max_new_tokens": 4})


def _context(
    config: Config, folder: Path, category: str, rows: list[dict[str, Any]], inputs: dict[str, Path], out: str = "out"
) -> Context:
    data = folder / f"data_{category}"
    data.mkdir(exist_ok=True)
    write_table(data / "rows.parquet", rows, DATASET)
    write_table(
        data / "refusals.parquet",
        [{"refusal": r} for r in ("No.", "I can't.", "Never.")],
        pa.schema([("refusal", pa.string())]),
    )
    (folder / out).mkdir()
    name = "helpful_dataset" if category == "helpful" else f"safety_dataset_{category}"
    return Context(
        config, category, {name: data, **inputs}, folder / out, folder, ArtifactStore(config.root), RecordingReporter()
    )


def test_the_pool_of_a_harm_category(config: Config, second_policy: Path, tmp_path: Path) -> None:
    """3 prompts (a fourth row is resampled): 2 base and 1 sft samples and 1 corrupted answer each make 12 rows."""
    rows = [*_rows(3), {**_rows(1)[0], "origin": "resampled"}]
    context = _context(config, tmp_path, "insult", rows, {"sft_checkpoint": second_policy})
    shown = build_completion_pool(context)
    pool = read_table(context.out / "completions.parquet")
    assert list(pool[0]) == SCHEMA.names
    assert Counter(row["policy"] for row in pool) == {"base": 6, "sft": 3, "corrupted": 3}
    assert pool == sorted(pool, key=lambda row: (row["prompt_id"], row["policy"], row["sample"]))
    assert len({(row["prompt_id"], row["policy"], row["sample"]) for row in pool}) == len(pool)
    sampled = [row for row in pool if row["policy"] in ("base", "sft")]
    assert all(1 <= row["tokens"] <= 4 for row in sampled)
    assert {row["completion"] for row in sampled if row["policy"] == "base"} != {
        row["completion"] for row in sampled if row["policy"] == "sft"
    }
    expected = {
        "dagster/row_count": 12,
        "prompts": 3,
        "sampled": 9,
        "contrast": 3,
        "tokens": sum(row["tokens"] for row in sampled),
    }
    assert {key: shown[key] for key in expected} == expected
    assert shown["finished_share"] == round(sum(row["finished"] for row in sampled) / 9, 4)
    assert len(shown["examples"].rows) == 6


def test_the_pool_of_the_helpful_set(config: Config, second_policy: Path, tmp_path: Path) -> None:
    """3 prompts, each with 3 samples, 2 refusals, 2 hedged, 1 off-topic and 1 corrupted answer, make 27 rows."""
    context = _context(config, tmp_path, "helpful", _rows(3), {"sft_checkpoint": second_policy})
    build_completion_pool(context)
    pool = read_table(context.out / "completions.parquet")
    assert Counter(row["policy"] for row in pool) == {
        "base": 6,
        "sft": 3,
        "refusal": 6,
        "hedged": 6,
        "off_topic": 3,
        "corrupted": 3,
    }


def test_equal_inputs_give_equal_bytes_with_and_without_the_cache(
    config: Config, second_policy: Path, tmp_path: Path
) -> None:
    inputs = {"sft_checkpoint": second_policy}
    first = _context(config, tmp_path, "insult", _rows(3), inputs)
    build_completion_pool(first)
    cached = _context(config, tmp_path, "insult", _rows(3), inputs, out="cached")
    build_completion_pool(cached)
    assert not any("sampled" in line for line in cached.reporter.lines)  # type: ignore[attr-defined]
    (Path(config.root) / ".cache" / "completions.sqlite").unlink()
    recomputed = _context(config, tmp_path, "insult", _rows(3)[::-1], inputs, out="recomputed")
    build_completion_pool(recomputed)
    bytes_of = [(context.out / "completions.parquet").read_bytes() for context in (first, cached, recomputed)]
    assert bytes_of[0] == bytes_of[1] == bytes_of[2]


def test_answers_have_no_draft(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drirl_core.completions import stage as completions
    from drirl_core.models.sampling import Completion

    monkeypatch.setattr(
        completions,
        "sample",
        lambda policy, prompts, copies, *_, **__: [
            [Completion("think first\n####\nNo.", 5, True)] * copies for _ in prompts
        ],
    )
    context = _context(config, tmp_path, "insult", _rows(1), {"sft_checkpoint": tmp_path})
    build_completion_pool(context)
    sampled = [row for row in read_table(context.out / "completions.parquet") if row["policy"] == "base"]
    assert {(row["completion"], row["answer"]) for row in sampled} == {("think first\n####\nNo.", "No.")}


def test_a_policy_with_no_samples_is_not_sampled(config: Config, tmp_path: Path) -> None:
    import dataclasses

    config = dataclasses.replace(
        config, completions=dataclasses.replace(config.completions, samples={"base": 1, "sft": 0})
    )
    context = _context(config, tmp_path, "insult", _rows(2), {})  # there is no sft_checkpoint
    assert build_completion_pool(context)["sampled"] == 2


def test_an_empty_data_set_is_refused(config: Config, tmp_path: Path) -> None:
    rows = [{**row, "origin": "resampled"} for row in _rows(2)]
    context = _context(config, tmp_path, "insult", rows, {})
    with pytest.raises(DataError, match="safety_dataset_insult has no rows; completions need prompts"):
        build_completion_pool(context)
