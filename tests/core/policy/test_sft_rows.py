"""Rows that do not fit are counted and named, as TRL would cut and drop them without a word."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from drirl_core.config import ModelsConfig, SftConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.models.loading import load_policy, load_tokenizer
from drirl_core.policy.sft import build_sft_checkpoint, training_rows
from drirl_core.policy.sft_rows import first, in_batches_of_one_length, tokenised

pytestmark = pytest.mark.usefixtures("no_curves")


def row(prompt: str, answer: str, name: str = "a", category: str = "insult") -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
        "prompt_id": name,
        "category": category,
    }


@pytest.fixture
def tokenizer(tiny_policy: Path, tiny_models: ModelsConfig) -> Any:
    return load_tokenizer(tiny_policy, tiny_models)


def test_rows_by_hand(tokenizer: Any) -> None:
    """One token per byte, one per mark: a prompt of 4 has 7 tokens, an answer of 5 has 6 with its end."""
    read = tokenised(tokenizer, [row("abcd", "12345")], 13)
    assert (len(read.rows[0]["input_ids"]), sum(read.rows[0]["completion_mask"]), read.cut, read.dropped) == (
        13,
        6,
        (),
        (),
    )
    assert tokenizer.decode(read.rows[0]["input_ids"]) == "<|user|>abcd<|end|><|assistant|>12345<|end|>"
    rows = [row("abcd", "12345", "whole"), row("abcd", "123456", "cut"), row("abcdefghijkl", "1", "gone"), row("a", "")]
    read = tokenised(tokenizer, rows, 13)
    assert (read.cut, read.dropped) == (("insult/cut",), ("insult/gone",))
    assert [len(found["input_ids"]) for found in read.rows] == [13, 13, 5]
    assert read.said() == (
        "1 row is longer than 13 tokens and cut off at the end: insult/cut; 1 row is left out, with no room for an answer in "
        "13 tokens: insult/gone"
    )
    assert read.record() == {
        "rows_cut": 1, "rows_dropped": 1, "first_cut": "insult/cut", "first_dropped": "insult/gone",
    }  # fmt: skip


def test_only_the_first_tokens_of_an_answer_are_learned(tokenizer: Any) -> None:
    """A prompt of 4 has 7 tokens; of an answer of 5 with its end, 3 are kept, of one of 1, both. None is called cut."""
    read = tokenised(tokenizer, [row("abcd", "12345"), row("abcd", "1")], 99, answer_tokens=3)
    texts = [tokenizer.decode(found["input_ids"]) for found in read.rows]
    assert texts == ["<|user|>abcd<|end|><|assistant|>123", "<|user|>abcd<|end|><|assistant|>1<|end|>"]
    assert [sum(found["completion_mask"]) for found in read.rows] == [3, 2]
    assert (read.cut, read.dropped) == ((), ())
    short = tokenised(tokenizer, [row("abcd", "12345", "short")], 9, answer_tokens=3)  # the limit still counts
    assert (len(short.rows[0]["input_ids"]), short.cut) == (9, ("insult/short",))


def test_the_target_of_first_tokens_is_the_answer() -> None:
    with pytest.raises(ConfigError, match=r"sft.answer_tokens is 8 with the target demonstration.*the draft"):
        SftConfig(answer_tokens=8, target="demonstration")
    with pytest.raises(ConfigError, match=r"sft.answer_tokens is -1; 0 \(all\)"):
        SftConfig(answer_tokens=-1)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40), size=st.integers(1, 8), seed=st.integers(0, 9))
def test_batches_hold_rows_of_similar_length(lengths: list[int], size: int, seed: int) -> None:
    """Every row comes once; as few tokens as any way to deal the rows into such batches; the rest comes last."""
    rows = [{"input_ids": [place] * length} for place, length in enumerate(lengths)]
    ordered = in_batches_of_one_length([[row] for row in rows], size, seed)
    assert sorted(row["input_ids"][0] for row in ordered) == list(range(len(rows)))
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    spans = sorted((min(map(len, found)), max(map(len, found))) for found in map(_ids, batches))
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def _ids(batch: list[dict[str, list[int]]]) -> list[list[int]]:
    return [row["input_ids"] for row in batch]


def test_batches_come_in_an_order_of_the_seed() -> None:
    """Eight batches of two: sorted by length they would begin with the shortest."""
    rows = [{"input_ids": [1] * length} for length in range(1, 17)]
    orders = {tuple(map(len, _ids(in_batches_of_one_length([[row] for row in rows], 2, seed)))) for seed in range(5)}
    assert len(orders) == 5


def test_a_category_that_loses_all_its_rows_is_an_error(tokenizer: Any) -> None:
    rows = [row("a", "1", "kept", "helpful"), *(row("abcdefghijkl", "1", f"p{i}") for i in range(7))]
    with pytest.raises(
        DataError,
        match=r"all 7 training rows of insult have no room for an answer in 13 tokens, .* \(insult/p0, insult/p1, insult/p2, "
        r"insult/p3, insult/p4, \.\.\.\); raise sft\.max_length",
    ):
        tokenised(tokenizer, rows, 13)


def test_rows_are_those_of_trl(tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path) -> None:
    policy = load_policy(tiny_policy, tiny_models)
    rows = [row("ab" * i, "cd" * (20 - i), f"p{i}") for i in range(20)]
    read = tokenised(policy.tokenizer, rows, 40)
    arguments = TrlSftConfig(
        output_dir=str(tmp_path), max_length=40, completion_only_loss=True, use_cpu=True, bf16=False, report_to="none"
    )
    messages = [{name: one[name] for name in ("prompt", "completion")} for one in rows]
    given = [
        SFTTrainer(
            model=policy.model,
            args=arguments,
            train_dataset=Dataset.from_list(found),
            processing_class=policy.tokenizer,
        )
        for found in (messages, read.rows)
    ]
    theirs, ours = ([dict(one) for one in trainer.train_dataset] for trainer in given)
    assert read.cut
    assert read.dropped
    assert len(ours) == len(theirs) == 20 - len(read.dropped)
    for own, other in zip(ours, theirs, strict=True):
        assert (own["input_ids"], own["labels"]) == (other["input_ids"], other["labels"])


def test_a_thought_that_the_template_opens_is_learned_to_be_closed(
    copy_of_policy: Path, tiny_models: ModelsConfig
) -> None:
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    (copy_of_policy / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(copy_of_policy, tiny_models)
    (read,) = tokenised(tokenizer, [row("hi", "No.")], 99).rows
    learned = [token for token, own in zip(read["input_ids"], read["completion_mask"], strict=True) if own]
    asked = tokenizer.decode([t for t, own in zip(read["input_ids"], read["completion_mask"], strict=True) if not own])
    assert asked == "<|user|>hi<|end|><|assistant|><think>\n"
    assert tokenizer.decode(learned) == "\n</think>\n\nNo.<|end|>"


def test_names_of_many_rows_are_cut() -> None:
    assert first(["a", "b"]) == "a, b"
    assert first(list("abcdef")) == "a, b, c, d, e, ..."


# ---------------------------------------------------------------------------------------------------------------- stage


def test_the_stage_logs_and_records_what_was_cut(contexts: Any) -> None:
    """With `sft.max_length` 60 the prompts fit, and some answers do not."""
    longest = max(
        len(one["prompt"][0]["content"]) + len(one["completion"][0]["content"]) + 4
        for one in training_rows(contexts.make("rows"), contexts.config().sft, 0)
    )
    context = contexts.make("run", {"sft.max_length": longest - 1})
    shown = build_sft_checkpoint(context)
    assert shown["rows_cut"] >= 1
    assert shown["rows_dropped"] == 0
    (line,) = [line for line in context.reporter.lines if line.startswith("SFT: ")]
    assert f"longer than {longest - 1} tokens and cut off at the end: " in line
    assert shown["first_cut"].partition("/")[0] in ("insult", "mental_health", "helpful")
    metrics = json.loads((context.out / "metrics.json").read_text())
    assert (metrics["rows_cut"], metrics["first_cut"]) == (shown["rows_cut"], shown["first_cut"])


def test_the_stage_refuses_targets_and_prompts_before_it_trains(contexts: Any) -> None:
    with pytest.raises(ConfigError, match=r"sft\.lora\.targets: c_attn names no layer, so nothing would be adapted"):
        build_sft_checkpoint(contexts.make("a", {"sft.lora": {"rank": 2, "targets": ["c_attn"]}}))
    with pytest.raises(DataError, match=r"with 500 new ones more than the 512"):
        build_sft_checkpoint(contexts.make("b", {"policy.max_new_tokens": 500}))
    with pytest.raises(
        DataError, match=r"benchmark suite embedded, group unsafe, prompt_id [0-9a-f]{16}: the prompt '"
    ):
        build_sft_checkpoint(contexts.make("c", {"benchmarks.max_new_tokens": 500}))


@pytest.fixture
def copy_of_policy(tiny_policy: Path, tmp_path: Path) -> Path:
    import shutil

    folder = Path(shutil.copytree(tiny_policy, tmp_path / "copy"))
    assert AutoTokenizer.from_pretrained(folder).chat_template
    return folder
