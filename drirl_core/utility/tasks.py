"""The utility tasks: where the rows come from, what the harness makes of them, and what is counted.

The prompts, the ways to read an answer and the metrics are those that lm-evaluation-harness ships; only the rows come
from the user's files, in the shapes in which these sets are published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from drirl_core.errors import DataError, nearest
from drirl_core.files.reading import find_file, read_strictly
from drirl_core.files.records import Record
from drirl_core.store.rowcache import content_key

Row = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """A figure of a task.

    Args:
        name: for the tables.
        metric: the harness's name of it.
        filter: the harness's way to read the answer.
        by: field of the rows; the figure is also given for each of its values.
        only: field and value of the rows that count; empty for all.
        kind: a `rate` of right rows, a `mean` over rows, or a `score` that is made of all rows together.
    """

    name: str
    metric: str
    filter: str = "none"
    by: str = ""
    only: tuple[str, ...] = ()
    kind: Literal["rate", "mean", "score"] = "rate"


@dataclass(frozen=True)
class UtilityTask:
    """A task.

    Args:
        title: for people.
        files: names that its file goes by in a directory.
        read: makes a row of the harness from the values of a row of the file; says what is missing.
        measures: what is counted.
        base: the task of the harness that it is, as a path below `lm_eval/tasks`; empty for one of our own.
        several: whether all files are read, not the first that is there.
        settings: of the harness, beside those of its own task.
    """

    title: str
    files: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Row]
    measures: tuple[Measure, ...]
    base: str = ""
    several: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class _ShapeError(ValueError):
    """Say what a row lacks."""


def _text(values: Mapping[str, Any], *names: str) -> str:
    found = next((values[name] for name in names if isinstance(values.get(name), str) and values[name].strip()), None)
    if found is None:
        raise _ShapeError(f"it has no text in {' or '.join(map(repr, names))}; it has {', '.join(sorted(values))}")
    return found


def _gsm8k(values: Mapping[str, Any]) -> Row:
    answer = _text(values, "answer")
    if "####" not in answer:
        raise _ShapeError("its answer has no number after '####'")
    return {"question": _text(values, "question"), "answer": answer}


def _truthfulqa(values: Mapping[str, Any]) -> Row:
    """Read the table of the repository (answers separated by semicolons), its `mc_task.json`, or the hub's rows."""
    question = _text(values, "question", "Question")
    if "Best Answer" not in values:
        return {
            "question": question,
            **{name: _targets(values.get(name), name) for name in ("mc1_targets", "mc2_targets")},
        }
    right, wrong = (_split(_text(values, f"{kind} Answers")) for kind in ("Correct", "Incorrect"))
    best = _closed(_text(values, "Best Answer"))
    return {
        "question": question,
        "mc1_targets": _choices([best], wrong),
        "mc2_targets": _choices(right, wrong),
    }


def _closed(answer: str) -> str:
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."


def _split(answers: str) -> list[str]:
    return [_closed(answer) for answer in answers.split(";") if answer.strip()]


def _choices(right: Sequence[str], wrong: Sequence[str]) -> Row:
    return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}


def _targets(value: Any, name: str) -> Row:
    """Return choices with the right ones first, where the harness looks for the best answer."""
    pairs = _scored(value)
    right, wrong = ([text for text, label in pairs if label == wanted] for wanted in (1, 0))
    if not right or not wrong or (name == "mc1_targets" and len(right) > 1):
        raise _ShapeError(f"{name} needs right and wrong answers, and mc1_targets exactly one right one")
    return _choices(right, wrong)


def _scored(value: Any) -> list[tuple[str, int]]:
    """Read answers with their labels: `{answer: 1 or 0}`, or `{choices: [...], labels: [...]}`."""
    if isinstance(value, Mapping) and set(value) == {"choices", "labels"}:
        value = dict(zip(value["choices"], value["labels"], strict=True))
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and v in (0, 1) for k, v in value.items()):
        raise _ShapeError("it has no answers with labels 1 and 0")
    return [(text, int(label)) for text, label in value.items()]


def _hhh(values: Mapping[str, Any]) -> Row:
    """Read a task file of BIG-bench (`target_scores`), or the hub's rows (`targets`)."""
    pairs = _scored(values.get("target_scores", values.get("targets")))
    if sorted(label for _, label in pairs) != [0, 1]:
        raise _ShapeError("it needs two answers, one of them right")
    labels = [label for _, label in pairs]
    return {"input": _text(values, "input"), "choices": [text for text, _ in pairs], "target": labels.index(1)}


_BBQ_TEXTS = ("question_polarity", "context_condition", "category", "context", "question", "ans0", "ans1", "ans2")


def _bbq(values: Mapping[str, Any]) -> Row:
    row: Row = {name: _text(values, name) for name in _BBQ_TEXTS}
    info, more = values.get("answer_info"), values.get("additional_metadata")
    groups = more.get("stereotyped_groups") if isinstance(more, Mapping) else None
    if values.get("label") not in (0, 1, 2) or not isinstance(info, Mapping) or not isinstance(groups, list):
        raise _ShapeError(
            "it needs `label` (0, 1 or 2), `answer_info`, and `stereotyped_groups` in `additional_metadata`"
        )
    answers = {f"ans{number}": list(info[f"ans{number}"]) for number in range(3)}
    return {
        **row,
        "label": values["label"],
        "answer_info": answers,
        "additional_metadata": {"stereotyped_groups": groups},
    }


_CHOICE = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "target", "num_fewshot": 0}
_ACCURACY = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}

TASKS: Mapping[str, UtilityTask] = MappingProxyType(
    {
        "gsm8k": UtilityTask(
            "GSM8K, final number, eight worked examples before each question",
            ("test.jsonl", "gsm8k.jsonl", "test-00000-of-00001.parquet"),
            _gsm8k,
            (
                Measure("last number right", "exact_match", "flexible-extract"),
                Measure("'The answer is' right", "exact_match", "strict-match"),
            ),
            "gsm8k/gsm8k-cot.yaml",
        ),
        "truthfulqa_mc1": UtilityTask(
            "TruthfulQA, best answer against wrong ones",
            ("TruthfulQA.csv", "mc_task.json", "validation-00000-of-00001.parquet"),
            _truthfulqa,
            (Measure("right", "acc"),),
            "truthfulqa/truthfulqa_mc1.yaml",
        ),
        "truthfulqa_mc2": UtilityTask(
            "TruthfulQA, probability of the true answers",
            ("TruthfulQA.csv", "mc_task.json", "validation-00000-of-00001.parquet"),
            _truthfulqa,
            (Measure("mass of true answers", "acc", kind="mean"),),
            "truthfulqa/truthfulqa_mc2.yaml",
        ),
        "hhh": UtilityTask(
            "HHH alignment, the better of two answers by log-likelihood",
            ("harmless.json", "helpful.json", "honest.json", "other.json"),
            _hhh,
            (Measure("right", "acc", by="category"),),
            several=True,
            settings={**_CHOICE, "doc_to_text": "{{input}}", "metric_list": [_ACCURACY], "metadata": {"version": 1.0}},
        ),
        "bbq": UtilityTask(
            "BBQ, three answers by log-likelihood, with bias scores",
            ("bbq.jsonl", "bbq_sample.jsonl"),
            _bbq,
            (
                Measure("right", "acc", by="context_condition"),
                Measure("bias, ambiguous", "amb_bias_score", only=("context_condition", "ambig"), kind="score"),
                Measure(
                    "bias, disambiguated", "disamb_bias_score", only=("context_condition", "disambig"), kind="score"
                ),
            ),
            "bbq/bbq_multiple_choice.yaml",
        ),
    }
)
"""Tasks by name."""


def find_task(name: str) -> UtilityTask:
    """Return a task.

    Raises:
        DataError: there is none of this name.
    """
    if name not in TASKS:
        raise DataError(f"--task {name!r} is no utility task; {nearest(name, TASKS)}")
    return TASKS[name]


def read_rows(name: str, path: Path, limit: int = 0) -> list[Row]:
    """Read the rows of a task.

    Args:
        name: of the task.
        path: its file, or a directory with it.
        limit: rows of each file at most, the first by content hash; 0 for all.

    Returns:
        Rows as the harness takes them; `category` is the file's name where a task has several files.

    Raises:
        DataError: a file is missing or damaged, or a row does not have the published shape; the message names it.
    """
    task, rows = find_task(name), []
    for file in _files(name, task, path):
        read = [_row(name, task, file, record) for record in read_strictly(file)]
        if limit:
            kept = {id(row) for row in sorted(read, key=content_key)[:limit]}
            read = [row for row in read if id(row) in kept]
        rows += read
    return rows


def _row(name: str, task: UtilityTask, file: Path, record: Record) -> Row:
    try:
        row = task.read(record.values)
    except (_ShapeError, KeyError, TypeError, ValueError) as error:
        said = error if isinstance(error, _ShapeError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{file}, {record.place}: no row of {name}: {said}; use the file as it is published") from error
    return {**row, "category": file.stem} if task.several else row


def _files(name: str, task: UtilityTask, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [file for file in (find_file(path, one) for one in task.files) if file]
    if not found:
        problem = "has none" if path.is_dir() else "does not exist"
        raise DataError(f"the task {name} needs {' or '.join(task.files)}, and {path} {problem}; give the file itself")
    return found if task.several else found[:1]
