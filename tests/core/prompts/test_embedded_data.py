"""The embedded data: sizes, formats, planted defects, and the separation of training and evaluation files."""

from __future__ import annotations

import json
import re
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import drirl_core
from drirl_core.prompts.duplicates import decontaminate
from drirl_core.taxonomy import SEVEN_CATEGORIES

DATA = Path(drirl_core.__file__).parent / "data"


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    found = re.findall(r"[\w']+", text.lower())
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


def _no_shared_runs(texts: list[str], length: int) -> None:
    counts = Counter(run for text in texts for run in _runs(text, length))
    assert [run for run, count in counts.items() if count > 1] == []


def test_the_pool_is_even_but_for_its_defects_which_are_listed_apart() -> None:
    """Its own rows alone are the earlier uneven pool: 160 of the largest category, 60 of the smallest."""
    rows, defects = _rows("unsafe_prompts"), _rows("planted_defects")
    sizes = Counter(row["category"] for row in rows)
    assert set(sizes) == set(SEVEN_CATEGORIES)
    assert (len(rows), max(sizes.values()), min(sizes.values())) == (1470, 211, 209)
    house = Counter(row["category"] for row in rows if row["style"] == "house")
    assert (house.total(), max(house.values()), min(house.values())) == (755, 160, 60)
    assert all(row.keys() == {"id", "prompt", "category", "style"} for row in rows)
    clean = Counter(row["category"] for row in rows) - Counter(d["category"] for d in defects)
    assert clean == dict.fromkeys(SEVEN_CATEGORIES, 200)
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert all(re.fullmatch(rf"{row['category']}-(\d{{4}}|s\d{{3}})", row["id"]) for row in rows)
    assert Counter(d["defect"] for d in defects) == {
        "near_duplicate": 35,
        "broken": 14,
        "mislabelled": 14,
        "exact_duplicate": 7,
    }
    for defect in defects:
        assert by_id[defect["id"]]["category"] == defect["category"]
        if defect["defect"] == "mislabelled":
            assert defect["true_category"] in set(SEVEN_CATEGORIES) - {defect["category"]}
        if defect["defect"] == "exact_duplicate":
            assert by_id[defect["of"]]["prompt"] == by_id[defect["id"]]["prompt"]


def test_the_unsafe_prompts_come_in_thirteen_styles() -> None:
    styles = Counter(row["style"] for row in _rows("unsafe_prompts"))
    assert len(styles) == 13
    assert min(styles.values()) >= 55
    found = Counter((row["category"], row["style"]) for row in _rows("unsafe_prompts"))
    assert len(found) == 13 * 7


def test_originals_stand_before_their_near_duplicates() -> None:
    """So that the row with a demonstration is the one that is kept."""
    assert all(d["of"] < d["id"] for d in _rows("planted_defects") if d["defect"] == "near_duplicate")


def test_demonstrations_are_short_drafts_with_refusals() -> None:
    rows = _rows("demonstrations")
    answers = []
    for row in rows:
        assert row.keys() == {"id", "prompt", "category", "style", "demonstration"}
        draft, separator, answer = row["demonstration"].partition("\n####\n")
        assert separator
        steps = draft.split("\n")
        assert 2 <= len(steps) <= 4, row
        assert all(1 <= len(step.split()) <= 5 for step in steps), row
        assert 5 <= len(answer.split()) <= 40, row
        assert "\n" not in answer
        assert "#" not in answer
        answers.append(answer)
    assert 0.2 <= sum(len(answer.split()) < 15 for answer in answers) / len(answers) <= 0.3
    assert len({row["prompt"] for row in rows}) == len(rows)
    for category in SEVEN_CATEGORIES:
        _no_shared_runs([a for a, row in zip(answers, rows, strict=True) if row["category"] == category], 6)


def test_every_clean_prompt_of_the_pool_has_a_demonstration() -> None:
    """Twelve more, all of `insult`, have new prompts, to fill up to a quota."""
    defects = {defect["id"] for defect in _rows("planted_defects")}
    pool = {row["id"]: row for row in _rows("unsafe_prompts") if row["id"] not in defects}
    rows = {row["id"]: row for row in _rows("demonstrations")}
    assert len(rows) == 1412
    assert {name: row["category"] for name, row in rows.items() if name not in pool} == {
        f"insult-f{number:03d}": "insult" for number in range(1, 13)
    }
    for name, row in pool.items():
        assert {key: rows[name][key] for key in row} == row


def test_helpful_rows_are_a_few_general_ones_look_alikes_and_a_twin_of_every_clean_prompt() -> None:
    rows = _rows("helpful")
    assert all(row.keys() == {"prompt", "kind", "answer", "lookalike_of", "style", "twin_of"} for row in rows)
    assert Counter(row["kind"] for row in rows) == {"general": 70, "look_alike": 2380}
    assert Counter(row["lookalike_of"] for row in rows if row["kind"] == "look_alike") == dict.fromkeys(
        SEVEN_CATEGORIES, 340
    )
    assert all(row["answer"].strip() and row["prompt"].strip() for row in rows)
    assert len({row["prompt"] for row in rows}) == len(rows)
    _no_shared_runs([row["answer"] for row in rows], 6)
    assert {(row["style"], row["kind"]) for row in rows[:1750] if not row["twin_of"]} == {
        ("house", "general"),
        ("house", "look_alike"),
    }
    defects = {defect["id"] for defect in _rows("planted_defects")}
    pool = {row["id"]: row for row in _rows("unsafe_prompts") if row["id"] not in defects}
    twins = {row["twin_of"]: row for row in rows if row["twin_of"]}
    assert twins.keys() == pool.keys()
    assert len(rows) - len(twins) == 1050
    for name, twin in twins.items():
        assert (twin["style"], twin["lookalike_of"]) == (pool[name]["style"], pool[name]["category"])


def test_further_look_alikes_are_like_the_others_and_apart_from_evaluation_files() -> None:
    """The last 700 rows: a hundred per category, 40 of style house and five of each other style."""
    helpful = _rows("helpful")
    rows, others = helpful[1750:], helpful[:1750]
    assert all(row.keys() == others[0].keys() for row in rows)
    assert {(row["kind"], row["twin_of"]) for row in rows} == {("look_alike", "")}
    assert Counter(row["lookalike_of"] for row in rows) == dict.fromkeys(SEVEN_CATEGORIES, 100)
    styles = Counter(row["style"] for row in rows)
    assert (len(styles), styles["house"], min(styles.values())) == (13, 280, 35)
    assert len({row["prompt"] for row in (*rows, *others)}) == len(rows) + len(others)
    assert all(15 <= len(row["answer"].split()) <= 42 for row in rows)
    _no_shared_runs([row["answer"] for row in (*rows, *others)], 6)
    held = [row["prompt"] for name in ("unsafe", "safe", "helpful") for row in _rows(f"heldout/{name}")]
    held += [row[name] for row in _rows("heldout_twins/pairs") for name in ("unsafe", "safe")]
    assert [found for found in decontaminate([row["prompt"] for row in rows], held, 0.45) if found] == []


def test_twins_keep_at_least_half_of_the_words_in_order() -> None:
    pool = {row["id"]: row["prompt"] for row in _rows("unsafe_prompts")}
    for row in _rows("helpful"):
        if row["twin_of"]:
            both = [re.findall(r"[\w']+", text.lower()) for text in (pool[row["twin_of"]], row["prompt"])]
            assert SequenceMatcher(None, *both).ratio() >= 0.5, row
            assert both[0] != both[1], row


def test_refusals_are_seventy_different_ones() -> None:
    rows = [row["refusal"] for row in _rows("refusals")]
    assert len(rows) == 70
    assert all(15 <= len(text.split()) <= 35 for text in rows)
    assert len({" ".join(text.split()[:5]) for text in rows}) >= 68
    assert all(len(re.findall(r"[.?!](?:\s|$)", text)) <= 2 for text in rows)
    _no_shared_runs(rows, 6)


def test_evaluation_files_are_apart_from_training_files() -> None:
    unsafe, safe, helpful = _rows("heldout/unsafe"), _rows("heldout/safe"), _rows("heldout/helpful")
    assert (
        Counter(row["category"] for row in unsafe)
        == Counter(row["category"] for row in safe)
        == dict.fromkeys(SEVEN_CATEGORIES, 20)
    )
    assert len(helpful) == 60
    assert all(re.compile(pattern) for row in helpful for pattern in row["accept"])
    held_out = {row["prompt"] for row in (*unsafe, *safe, *helpful)}
    assert len(held_out) == 340
    training = {row["prompt"] for name in ("unsafe_prompts", "demonstrations", "helpful") for row in _rows(name)}
    assert not held_out & training


def test_twins_are_minimal_edits_apart_from_training_files() -> None:
    """At least 20 pairs per category; two thirds of the words of a pair are common, in order."""
    rows = _rows("heldout_twins/pairs")
    assert all(row.keys() == {"pair", "category", "unsafe", "safe"} for row in rows)
    assert len({row["pair"] for row in rows}) == len(rows) == 168
    assert min(Counter(row["category"] for row in rows).values()) >= 20
    assert {row["category"] for row in rows} == set(SEVEN_CATEGORIES)
    for row in rows:
        unsafe, safe = (re.findall(r"[\w']+", row[name].lower()) for name in ("unsafe", "safe"))
        assert SequenceMatcher(None, unsafe, safe, autojunk=False).ratio() >= 0.65, row["pair"]
    prompts = [row[name] for row in rows for name in ("unsafe", "safe")]
    assert len(set(prompts)) == 2 * len(rows)
    others = {row["prompt"] for name in ("unsafe", "safe", "helpful") for row in _rows(f"heldout/{name}")}
    training = {row["prompt"] for name in ("unsafe_prompts", "demonstrations", "helpful") for row in _rows(name)}
    assert not set(prompts) & (others | training)
    assert [found for found in decontaminate(sorted(training), prompts, 0.45) if found] == []


def test_the_card_tells_the_sizes_of_the_files() -> None:
    card = (DATA / "README.md").read_text(encoding="utf-8")
    for path in DATA.rglob("*.jsonl"):
        rows = len(path.read_text(encoding="utf-8").splitlines())
        assert re.search(rf"`{path.relative_to(DATA)}` \| {rows} \|", card), path.name
