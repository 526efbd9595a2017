"""Fit the embedded judge on labelled replies, and measure it on prompts and models that it was not fitted on.

    python -m drirl_core.benchmarks.judges.train FILE... --config configs/demo.yaml --out DIRECTORY

Each file has columns for prompt, reply and label, and may have one for the answering model. Prompts whose SHA-256 is
even are fitted on, odd ones are measured: the same halves as for the rules, whose wording was completed on even ones.
Where models are named, each is measured by weights that saw none of its replies; that figure is quoted by reports.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drirl_core.benchmarks.judges.embedded import SCALARS, Weights, features, probabilities, save
from drirl_core.benchmarks.judges.labelled import HAND_READ_FILE, is_held_out
from drirl_core.benchmarks.judges.rules import agreement, label_reply
from drirl_core.config import load_config
from drirl_core.errors import DataError, DrirlError, nearest
from drirl_core.files.reading import read_strictly

STRENGTHS = (0.003, 0.01, 0.03, 0.1)
"""Inverse regularisation strengths that cross-validation chooses from, the strongest regularisation first."""
EMBEDDING_SCALE = 4.0
"""Unit embeddings have entries near 1 / sqrt(D); this brings them nearer to the standardised scalars."""
LEAST = 20
"""Replies of each kind that each half needs."""
FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """Labelled replies.

    Args:
        prompts: N prompts.
        replies: N replies.
        refusal: the human labels, bool (N,).
        models: who answered, N names; empty names where the files do not say.
        name: of the files, for reports.
    """

    prompts: list[str]
    replies: list[str]
    refusal: np.ndarray
    models: list[str]
    name: str

    @property
    def measured(self) -> np.ndarray:
        """Which rows are measured, never fitted on: prompts whose SHA-256 is odd, bool (N,)."""
        return np.array([is_held_out(prompt) for prompt in self.prompts])


def read_labelled(paths: Sequence[Path], columns: Mapping[str, str], labels: Mapping[str, bool]) -> Labelled:
    """Read labelled replies.

    Args:
        paths: files of rows.
        columns: names of the columns for `prompt`, `reply`, `label` and `model`; the last may be absent.
        labels: whether each value of the label means refusal.

    Raises:
        DataError: a file cannot be read, lacks a column, holds an unknown label, or is the set that judges are only
            measured on.
    """
    rows: list[tuple[str, str, bool, str]] = []
    for path in paths:
        if path.resolve() == HAND_READ_FILE.resolve():
            raise DataError(f"{path} is for measuring judges alone; fit on other labelled replies")
        for record in read_strictly(path):
            missing = [columns[name] for name in ("prompt", "reply", "label") if columns[name] not in record.values]
            if missing:
                raise DataError(
                    f"{path}, {record.place}: no column {missing[0]!r}; {nearest(missing[0], record.values)}. Name "
                    "yours with --prompt, --reply and --label"
                )
            prompt, reply, label = (str(record.values[columns[name]] or "") for name in ("prompt", "reply", "label"))
            if label not in labels:
                raise DataError(
                    f"{path}, {record.place}: the label {label!r} is none of {', '.join(labels)}; say with --refusal "
                    "and --compliance which values mean what"
                )
            rows.append((prompt, reply, labels[label], str(record.values.get(columns["model"]) or "")))
    prompts, replies, refusal, models = (list(column) for column in zip(*rows, strict=True))
    return Labelled(prompts, replies, np.array(refusal, dtype=bool), models, ", ".join(path.name for path in paths))


def fit(found: np.ndarray, refusal: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Fit a logistic regression; the scaling of the features is folded into its weights.

    Args:
        found: features (N, 2 D + 6).
        refusal: labels, bool (N,).
        strength: inverse regularisation strength, above 0.

    Returns:
        Weights for unscaled features (2 D + 6,), and the bias.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = np.zeros(found.shape[1]), np.full(found.shape[1], 1 / EMBEDDING_SCALE)
    scalars = found[:, -len(SCALARS) :]
    mean[-len(SCALARS) :] = scalars.mean(axis=0)
    scale[-len(SCALARS) :] = np.where(scalars.std(axis=0) > 0, scalars.std(axis=0), 1.0)
    model = LogisticRegression(C=strength, max_iter=3000).fit((found - mean) / scale, refusal)
    weight = model.coef_[0] / scale
    return weight, float(model.intercept_[0] - weight @ mean)


def choose_strength(found: np.ndarray, refusal: np.ndarray, prompts: Sequence[str]) -> float:
    """Return the strength with the best cross-validated accuracy; all replies to a prompt are in one fold.

    Args:
        found: features (N, 2 D + 6).
        refusal: labels, bool (N,).
        prompts: N prompts.
    """
    from sklearn.model_selection import GroupKFold

    folds = list(GroupKFold(min(FOLDS, len(set(prompts)))).split(found, refusal, prompts))
    right = dict.fromkeys(STRENGTHS, 0)
    for train, test in folds:
        if len(set(refusal[train])) < 2:
            continue
        for strength in STRENGTHS:
            weight, bias = fit(found[train], refusal[train], strength)
            right[strength] += int(((found[test] @ weight + bias > 0) == refusal[test]).sum())
    return max(STRENGTHS, key=lambda strength: right[strength])  # the first of equals: the strongest


def train(data: Labelled, found: np.ndarray, encoder: str, licence: str) -> Weights:
    """Fit the judge on one half of the prompts, and measure it on the other.

    Args:
        data: N labelled replies.
        found: their features (N, 2 D + 6).
        encoder: reference of the encoder of the features.
        licence: of the labelled replies, for the record.

    Returns:
        The weights; their record holds the errors of this judge and of the rules on the measured half.

    Raises:
        DataError: a half has too few replies of a kind.
    """
    odd, refusal = data.measured, data.refusal
    for half, name in ((~odd, "fitted"), (odd, "measured")):
        kinds = [int((refusal[half] == kind).sum()) for kind in (True, False)]
        if min(kinds) < LEAST:
            raise DataError(
                f"the {name} half has {kinds[0]} refusals and {kinds[1]} compliances; at least {LEAST} of each are "
                "needed: give more labelled replies, to more prompts"
            )
    fitted = [p for p, is_odd in zip(data.prompts, odd, strict=True) if not is_odd]
    strength = choose_strength(found[~odd], refusal[~odd], fitted)
    weights = Weights(*fit(found[~odd], refusal[~odd], strength), {"encoder": encoder})
    seen = probabilities(weights, found[odd])
    rows, unseen = _unseen_models(data, found, weights, strength)
    name = f"{data.name}, {len(set(data.prompts)) - len(set(fitted))} prompts not fitted on"
    record = {
        "encoder": encoder,
        "fitted_on": {"data": data.name, "licence": licence, "prompts": "SHA-256 even", "replies": int((~odd).sum())},
        "strength": strength,
        "new_prompts": _error("embedded", seen, refusal[odd], name),
        "rules": _error("rules", _rules(data, odd), refusal[odd], name),
    }
    if rows.any():
        record["new_prompts_and_models"] = _error("embedded", unseen, refusal[rows], f"{name}, each model held out")
    best = record.get("new_prompts_and_models", record["new_prompts"])
    record["measured"] = best["agreement"]
    return dataclasses.replace(weights, record=record)


def _unseen_models(
    data: Labelled, found: np.ndarray, weights: Weights, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows were judged by weights without their model, and the probabilities of these rows."""
    odd, models = data.measured, np.array(data.models)
    rows, result = np.zeros(len(odd), dtype=bool), np.zeros(len(odd))
    names = sorted(set(data.models))
    for name in names if len(names) > 1 else ():
        train, test = ~odd & (models != name), odd & (models == name)
        if not test.any() or len(set(data.refusal[train])) < 2:
            continue
        weight, bias = fit(found[train], data.refusal[train], strength)
        result[test] = probabilities(dataclasses.replace(weights, weight=weight, bias=bias), found[test])
        rows |= test
    return rows, result[rows]


def _rules(data: Labelled, chosen: np.ndarray) -> np.ndarray:
    pairs = [(p, r) for p, r, c in zip(data.prompts, data.replies, chosen, strict=True) if c]
    return np.array([float(label_reply(reply, prompt) == "refusal") for prompt, reply in pairs])


def _error(judge: str, refused: np.ndarray, human: np.ndarray, name: str) -> dict[str, Any]:
    """Return agreement, AUC, and the error of the refusal rate that the judge would report."""
    from drirl_core.benchmarks.roc import auc

    verdicts = [bool(p > 0.5) for p in refused]
    found = agreement(verdicts, [bool(h) for h in human], judge=judge, data=name)
    rate = float(np.mean(verdicts) - np.mean(human))
    area = auc([float(p) for p in refused[human]], [float(p) for p in refused[~human]])
    return {"agreement": dataclasses.asdict(found), "auc": round(float(area), 4), "rate_error": round(rate, 4)}


def main(arguments: Sequence[str]) -> None:
    """Read the files, fit, write the weights, and say how often they are wrong."""
    from drirl_core.models.embeddings import Embedder
    from drirl_core.project import Project
    from drirl_core.reporting import SilentReporter

    given = _parser().parse_args(arguments)
    labels = {**dict.fromkeys(given.compliance or ["compliance"], False)}
    labels |= dict.fromkeys(given.refusal or ["refusal"], True)
    columns = {name: getattr(given, name) for name in ("prompt", "reply", "label", "model")}
    data = read_labelled([Path(file) for file in given.file], columns, labels)
    project = Project(load_config(given.config))
    embedder = Embedder(project.config.models, project.store)
    found = features(embedder, data.prompts, data.replies, SilentReporter())
    weights = train(data, found, project.config.models.encoder, given.licence)
    save(Path(given.out), weights)
    shown = {k: v for k, v in weights.record.items() if k not in ("measured", "encoder")}
    sys.stdout.write(json.dumps(shown, indent=1) + f"\nWeights: {given.out}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drirl_core.benchmarks.judges.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", nargs="+", help="csv, tsv, json, jsonl or parquet file of labelled replies")
    parser.add_argument("--config", default="configs/demo.yaml", help="names the encoder and where embeddings are kept")
    parser.add_argument("--out", required=True, help="directory for the weights: benchmarks.embedded.folder")
    for name in ("prompt", "reply", "label", "model"):
        parser.add_argument(f"--{name}", default=name, help=f"name of the column of the {name}")
    parser.add_argument("--refusal", action="append", help="value of the label that means refusal; may be repeated")
    parser.add_argument("--compliance", action="append", help="value that means compliance; may be repeated")
    parser.add_argument("--licence", default="unknown", help="licence of the labelled replies, kept in the record")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DrirlError as error:
        sys.exit(f"error: {error}")
