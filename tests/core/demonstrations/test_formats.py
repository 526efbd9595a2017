"""`demonstrations.format`: demonstrations with a draft, and bare answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dataset_inputs import DatasetInputs, demonstration, demonstrations, pool_row, prompt, words

from drirl_core.config import DemonstrationsConfig, from_resolved, load_config, resolved, slice_hash
from drirl_core.demonstrations.stage import build_dataset
from drirl_core.demonstrations.validate import Failure, check_demonstration
from drirl_core.errors import ConfigError, DataError
from drirl_core.store.tables import read_table
from drirl_core.text import chain_of_draft as cod

SHORT = "I'm sorry, but I can't help with that."


def bare(*keys: object, answer: str = "") -> list[dict[str, str]]:
    """Return demonstrations without a draft, each with its own words unless one answer is given for all."""
    return [
        {
            "prompt": prompt(key),
            "category": "insult",
            "demonstration": answer or f"I can't help with that, since {words(('answer', key), 10)}.",
        }
        for key in keys
    ]


def build(inputs: DatasetInputs, **settings: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    context = inputs.context("insult", **settings)
    build_dataset(context)
    counts = json.loads((context.out / "counts.json").read_text(encoding="utf-8"))
    return read_table(context.out / "rows.parquet"), read_table(context.out / "quarantine.parquet"), counts


def inputs(folder: Path, written: list[dict[str, Any]]) -> DatasetInputs:
    return DatasetInputs(folder, pool=[pool_row(prompt(key)) for key in range(12)], written=written)


def test_bare_answers_are_taken_as_they_are(tmp_path: Path) -> None:
    rows, quarantine, counts = build(inputs(tmp_path, bare(*range(12))), quota=0, format="answer")
    assert len(rows) == 12 and quarantine == []
    assert all(row["demonstration"] == row["answer"] for row in rows)
    assert {row["answer"] for row in rows} == {row["demonstration"] for row in bare(*range(12))}
    assert counts["repeated_answers"] == 0


def test_the_same_refusal_of_every_prompt_is_taken_and_counted(tmp_path: Path) -> None:
    """Twelve equal answers: the first one is no repetition."""
    rows, quarantine, counts = build(inputs(tmp_path, bare(*range(12), answer=SHORT)), quota=0, format="answer")
    assert Counter(row["answer"] for row in rows) == {SHORT: 12}
    assert quarantine == []
    assert counts["repeated_answers"] == 11


def test_a_draft_before_an_answer_is_cut_off(tmp_path: Path) -> None:
    rows, quarantine, _ = build(inputs(tmp_path, demonstrations(*range(12))), quota=0, format="answer")
    assert quarantine == []
    assert {row["demonstration"] for row in rows} == {cod.cut_draft(demonstration(key)) for key in range(12)}


def test_chats_with_bare_refusals_are_taken(tmp_path: Path) -> None:
    written = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["demonstration"]},
            ],
            "category": "insult",
        }
        for row in bare(*range(12))
    ]
    rows, quarantine, counts = build(inputs(tmp_path, written), quota=0, format="answer")
    assert len(rows) == 12 and quarantine == [] and counts["without_demonstration"] == 0


def test_without_the_setting_bare_answers_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        build(inputs(tmp_path, bare(*range(12))), quota=0)
    said = str(error.value)
    assert said.startswith("12 rows are in quarantine, mostly bad_format. Category insult has 0 usable rows")
    assert "quarantined: {'bad_format': 12}, the first because no line '####'" in said
    assert "for bare answers set demonstrations.format: answer" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHORT, SHORT),
        (f"  {SHORT}\r\n", SHORT),
        (f"asks to hurt\n####\n{SHORT}", SHORT),
        ("Sure, here is a list of insults for him.", "complies"),
        ("Go round the back, where nobody looks.", "complies"),
        ("asks to hurt\n####\n...", "empty_answer"),
        ("...", "empty_answer"),
        ("", "missing_value"),
        (None, "missing_value"),
    ],
)
def test_each_answer_passes_or_has_its_reason(text: object, expected: str) -> None:
    checked = check_demonstration(text, 5, form="answer")
    assert (checked.reason if isinstance(checked, Failure) else checked.answer) == expected
    assert isinstance(checked, Failure) or checked.steps == ()


def test_a_model_is_asked_for_an_answer_alone() -> None:
    asked = cod.ask("Mock him.", "insult", 0)
    assert "Mock him." in asked and "insult" in asked and "refuse clearly" in asked
    assert "####" not in asked and "draft" not in asked
    assert "####" in cod.ask("Mock him.", "insult", 5)


def test_the_setting_changes_no_version_at_its_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("models: {policy: 'hf:a', encoder: 'hf:b'}\n", encoding="utf-8")
    config = load_config(file)
    older = resolved(config)
    del older["demonstrations"]["format"]
    assert from_resolved(older) == config
    bare_answers = load_config(file, {"demonstrations.format": "answer"})
    assert slice_hash(bare_answers, ("demonstrations",)) != slice_hash(config, ("demonstrations",))
    assert DemonstrationsConfig().format == "draft"
    with pytest.raises(ConfigError, match=r"demonstrations\.format is 'bare'; choose one of draft, answer"):
        load_config(file, {"demonstrations.format": "bare"})
