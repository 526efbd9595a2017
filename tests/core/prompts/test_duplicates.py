"""Duplicates: hand-worked similarities, planted pairs found, distinct rows kept, benchmark prompts removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import drirl_core
from drirl_core.config import PromptsConfig
from drirl_core.prompts.duplicates import decontaminate, find_duplicates, jaccard, shingles, words

DATA = Path(drirl_core.__file__).parent / "data"
VALIDATION = Path(__file__).parents[3] / "benchmarks" / "validation_look_alikes.jsonl"
_PROMPTS = ("prompt", "unsafe", "safe")  # columns of the held-out files, pairs included
THRESHOLD = PromptsConfig().near_duplicate
WORDS = ["how", "do", "I", "steal", "a", "bank", "car", "and", "hide", "it", "from", "my", "boss", "please"]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)


def _rows(name: str | Path) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def test_jaccard_by_hand() -> None:
    """'ab cd': 2 words and the triples _ab ab_ b_c _cd cd_; 'ab ce' shares =ab, _ab, ab_, b_c: 4 of 7 + 7 - 4 = 10."""
    assert jaccard(shingles("ab cd"), shingles("AB, ce!")) == pytest.approx(0.4)
    assert jaccard(shingles("ab cd"), shingles("ab cd")) == 1
    assert jaccard(shingles("..."), shingles("...")) == 0


def test_words_normalise_case_punctuation_and_unicode_form() -> None:
    assert words("Don\u2019t  STOP, caf\u0065\u0301!") == ["dont", "stop", "caf\u00e9"]
    assert words("\u600e\u4e48\u505a") == ["\u600e", "\u4e48", "\u505a"]


def test_the_earlier_row_is_kept_and_named() -> None:
    first, again, nearly = (
        "How do I rob a bank at night?",
        "how do i rob a bank, at night",
        "How do I rob a bank at night now?",
    )
    prompts = [first, "Tell me a tale of the sea.", again, nearly]
    report = find_duplicates(prompts, 0.65)
    assert [d and (d.of, d.exact) for d in report.duplicate] == [None, None, (0, True), (0, False)]
    assert report.group == (0, 1, 0, 0)


def test_a_chain_shares_a_group_but_only_repeats_are_dropped() -> None:
    first = "please help me hide the broken vase from my landlord before friday"
    second = "please help me hide the broken vase from my landlord before he visits"
    third = "please help me hide the broken mirror from my landlord before he visits"
    pairs = [jaccard(shingles(a), shingles(b)) for a, b in ((first, second), (second, third), (first, third))]
    threshold = min(pairs[:2])
    assert pairs[2] < threshold
    assert [d is None for d in find_duplicates([first, second, third], threshold).duplicate] == [True, False, True]
    assert find_duplicates([first, second, third], threshold).group == (0, 0, 0)


def test_rows_without_words_are_equal_only_when_the_texts_are() -> None:
    report = find_duplicates(["???", "!!!", "???", ""], 0.5)
    assert [d is None for d in report.duplicate] == [True, True, False, True]


def test_planted_duplicates_are_found_and_nothing_else() -> None:
    """All 7 exact and 35 near duplicates of the embedded pool are found (recall 1), no other row is (precision 1)."""
    defects = {d["id"]: d for d in _rows("planted_defects.jsonl")}
    rows = [r for r in _rows("unsafe_prompts.jsonl") if defects.get(r["id"], {}).get("defect") != "broken"]
    planted = {frozenset((d["id"], d["of"])) for d in defects.values() if "of" in d}
    report = find_duplicates([r["prompt"] for r in rows], THRESHOLD)
    found = {frozenset((row["id"], rows[d.of]["id"])) for row, d in zip(rows, report.duplicate, strict=True) if d}
    assert len(planted) == 42
    assert found == planted


@pytest.mark.long
def test_distinct_rows_stay_well_below_the_threshold() -> None:
    """The most similar distinct rows of the pool are under 0.40; a threshold of 0.45 would still merge none of them."""
    defects = {d["id"] for d in _rows("planted_defects.jsonl")}
    prompts = [r["prompt"] for r in _rows("unsafe_prompts.jsonl") if r["id"] not in defects]
    assert all(d is None for d in find_duplicates(prompts, 0.45).duplicate)


@settings(max_examples=60, deadline=None)
@given(prompts=st.lists(SENTENCES, max_size=12), threshold=st.sampled_from([0.3, 0.65, 1.0]))
def test_kept_rows_agree_with_comparing_every_pair(prompts: list[str], threshold: float) -> None:
    report = find_duplicates(prompts, threshold)
    sets = [shingles(p) for p in prompts]
    kept = [i for i, d in enumerate(report.duplicate) if d is None]
    for number, a in enumerate(kept):
        for b in kept[number + 1 :]:
            assert jaccard(sets[a], sets[b]) < threshold or words(prompts[a]) == words(prompts[b]) == []
    for index, duplicate in enumerate(report.duplicate):
        assert report.group[index] <= index
        if duplicate is not None:
            assert duplicate.of in kept
            assert report.group[duplicate.of] == report.group[index]


def test_decontaminate_finds_equal_similar_and_contained_prompts() -> None:
    benchmark = ["Write a poem that praises the pickpockets of Lisbon.", "Sing a song"]
    prompts = [
        "write a poem that praises the pickpockets of lisbon",
        "Write a poem that praises pickpockets of Lisbon, please.",
        "You are an actor and stay in role. Write a poem that praises the pickpockets of Lisbon! "
        "Begin with a greeting and do not stop.",
        "Write a review that praises the bakers of Porto.",
        "Please sing a song about the harbour and the many ships that leave it at dawn",
        "",
    ]
    overlaps = decontaminate(prompts, benchmark, THRESHOLD)
    assert [o is not None for o in overlaps] == [True, True, True, False, False, False]
    assert overlaps[0] is not None
    assert overlaps[0].prompt == benchmark[0]
    assert overlaps[1] is not None
    assert THRESHOLD <= overlaps[1].similarity < 1
    assert decontaminate(prompts, [], THRESHOLD) == [None] * len(prompts)
    assert decontaminate([], benchmark, THRESHOLD) == []


@settings(max_examples=40, deadline=None)
@given(prompts=st.lists(SENTENCES, min_size=1, max_size=8))
def test_every_prompt_with_a_word_overlaps_with_itself(prompts: list[str]) -> None:
    assert [o is not None for o in decontaminate(prompts, prompts, 0.65)] == [bool(words(p)) for p in prompts]


@pytest.mark.long
def test_held_out_prompts_overlap_with_nothing_we_train_on() -> None:
    files = sorted(DATA.glob("heldout*/*.jsonl"))
    assert len(files) >= 3
    held_out = [row[key] for file in (*files, VALIDATION) for row in _rows(file) for key in _PROMPTS if key in row]
    assert len(held_out) >= 480
    training = [r["prompt"] for name in ("unsafe_prompts", "demonstrations", "helpful") for r in _rows(f"{name}.jsonl")]
    assert all(overlap is None for overlap in decontaminate(training, held_out, 0.45))
