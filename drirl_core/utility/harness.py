"""Ask lm-evaluation-harness: its tasks on rows that we hand it, its figures with intervals that we add.

The harness gets a model that is loaded already, and data sets that are files in a temporary directory, so that it
fetches nothing and runs no code of a data set.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drirl_core import stats
from drirl_core.errors import ConfigError
from drirl_core.models.loading import Policy
from drirl_core.utility.tasks import TASKS, Measure, Row

PACKAGE = "lm-eval"
TESTED = "0.4.13"
SCORE_RESAMPLES = 1000
"""Bootstrap resamples of a score, which the harness's own function computes each time."""
_SPLIT = "test"
_NEW_TOKENS = 256
"""Length of an answer where a task does not set one; the harness's own default."""


@dataclass(frozen=True)
class Asking:
    """How the harness asks.

    Args:
        chat: whether prompts go through the chat template, as in every benchmark here; else plain text.
        shots: worked examples before a question, for tasks that bring some; None for the task's own number.
        batch_size: rows computed together; the harness keeps the logits of all their tokens.
        resamples: bootstrap resamples of means.
        seed: of the resampling.
    """

    chat: bool = True
    shots: int | None = None
    batch_size: int = 8
    resamples: int = 10_000
    seed: int = 0


def harness_version() -> str:
    """Return the version of the harness.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"utility is measured with {PACKAGE}, which is not installed; install it with "
            'pip install -c constraints.txt "drirl[utility]" (in a checkout: -e ".[utility]")'
        ) from error


def ask(
    policy: Policy, name: str, rows: Sequence[Row], asking: Asking, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure a model on one task.

    Args:
        policy: the loaded model.
        name: of the task.
        rows: N rows of it.
        asking: how to ask.
        folder: an empty directory for what the harness reads; may be deleted afterwards.

    Returns:
        The figures (`task`, `version`, `n`, `truncated` and the list `measures`), and one record per row and metric:
        `row`, `measure`, `value` and `answer`, which is the text or the chosen answer.

    Raises:
        ConfigError: the harness is not installed, or is a version whose tasks lie elsewhere.
    """
    harness_version()
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    config = _declaration(name, rows, asking, folder)
    loaded = TaskManager(include_defaults=False).load([str(config)])
    model = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=asking.batch_size)
    found: Any = evaluate(
        model, loaded, bootstrap_iters=0, log_samples=True, apply_chat_template=asking.chat, fewshot_as_multiturn=True
    )
    samples, task = sorted(found["samples"][name], key=lambda sample: sample["doc_id"]), loaded["tasks"][name]
    measures = [
        figure for measure in TASKS[name].measures for figure in _figures(measure, samples, task.aggregation(), asking)
    ]
    figures = {
        "task": name,
        "version": str(found["versions"][name]),
        "shots": int(found["n-shot"][name]),
        "n": len(rows),
        "truncated": len({sample["doc_id"] for sample in samples if _too_long(sample, policy)}),
        "measures": measures,
    }
    return figures, list(_answers(name, samples))


def _declaration(name: str, rows: Sequence[Row], asking: Asking, folder: Path) -> Path:
    """Write the rows and the task's declaration, which names them, and return the declaration."""
    import lm_eval

    task, data, file = TASKS[name], folder / "rows.jsonl", folder / f"{name}.yaml"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    declared: dict[str, Any] = {
        **task.settings,
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {_SPLIT: str(data)}, "cache_dir": str(folder / "cache")},
        **{f"{split}_split": None for split in ("training", "validation", "fewshot")},
        "test_split": _SPLIT,
    }
    if task.base:
        base = Path(lm_eval.__file__).parent / "tasks" / task.base
        if not base.is_file():
            raise ConfigError(
                f"{PACKAGE} {harness_version()} has no task {task.base}; install the tested version {TESTED}"
            )
        declared["include"] = str(base)
    if asking.shots is not None:
        declared["num_fewshot"] = asking.shots
    file.write_text(yaml.safe_dump(json.loads(json.dumps(declared))), encoding="utf-8")
    return file


def _figures(
    measure: Measure, samples: Sequence[Mapping[str, Any]], aggregations: Mapping[str, Any], asking: Asking
) -> Iterator[dict[str, Any]]:
    """Yield the figure of all rows, and those of its parts."""
    own = [sample for sample in samples if sample["filter"] == measure.filter]
    if measure.only:
        name, wanted = measure.only
        own = [sample for sample in own if sample["doc"][name] == wanted]
    parts = {"all": own} if own else {}
    for sample in own if measure.by else ():
        parts.setdefault(str(sample["doc"][measure.by]), []).append(sample)
    for part, chosen in parts.items():
        values = [sample[measure.metric] for sample in chosen]
        if measure.kind == "score":
            estimate = _score(values, aggregations[measure.metric], asking.seed)
        elif measure.kind == "mean":
            estimate = stats.bootstrap_mean([float(value) for value in values], asking.resamples, asking.seed)
        else:
            estimate = stats.wilson(sum(value == 1 for value in values), len(values))
        yield {
            "measure": measure.name,
            "part": part,
            "n": len(values),
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "interval": "Wilson" if measure.kind == "rate" else "bootstrap",
        }


def _score(values: Sequence[Any], aggregate: Any, seed: int) -> stats.Estimate:
    """Return a score of all rows with its percentile bootstrap interval; NaN where the rows do not allow it."""
    import numpy as np

    value, rng = float(aggregate(values)), np.random.default_rng(seed)
    if np.isnan(value):
        return stats.Estimate(value, value, value)
    drawn = [
        float(aggregate([values[i] for i in rng.integers(len(values), size=len(values))]))
        for _ in range(SCORE_RESAMPLES)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return stats.Estimate(value, float(low), float(high))


def _too_long(sample: Mapping[str, Any], policy: Policy) -> bool:
    """Say whether the harness cut off the beginning of a row, because the model cannot read all of it."""
    if policy.context is None:
        return False
    for text, end in sample["arguments"]:
        asked = policy.tokenizer(text + (end if isinstance(end, str) else ""), add_special_tokens=False)["input_ids"]
        if len(asked) > policy.context - (0 if isinstance(end, str) else end.get("max_gen_toks", _NEW_TOKENS)):
            return True
    return False


def _answers(name: str, samples: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for measure in (one for one in TASKS[name].measures if one.kind != "score"):
        for sample in (one for one in samples if one["filter"] == measure.filter):
            yield {
                "row": int(sample["doc_id"]),
                "measure": measure.name,
                "value": float(sample[measure.metric]),
                "answer": _answer(sample),
            }


def _answer(sample: Mapping[str, Any]) -> str:
    """Return the text that the model wrote, or the answer that it finds likeliest."""
    if not isinstance(sample["arguments"][0][1], str):
        return str(sample["resps"][0][0])
    likelihoods = [result[0] for result in sample["filtered_resps"]]
    return str(sample["arguments"][likelihoods.index(max(likelihoods))][1]).strip()
