"""Floor and ceiling: what they learn, how they are kept, and the stage on a tiny policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from drirl_core.benchmarks.references.classifiers import (
    BagOfWords,
    Linear,
    Probe,
    Split,
    fit_bag_of_words,
    fit_probe,
    load,
    save,
)
from drirl_core.benchmarks.references.stage import build_reference_classifiers
from drirl_core.config import BenchmarksConfig, Config, ModelsConfig
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph.build import Context
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import write_table

UNSAFE = ["steal the bike", "steal the car", "forge the note", "forge the cheque", "steal the purse", "forge the pass"]
SAFE = ["paint the bike", "paint the car", "read the note", "read the cheque", "paint the purse", "read the pass"]


def _split(unsafe: list[bool], general: tuple[int, ...] = ()) -> Split:
    return Split(np.array(unsafe), np.array([i not in general for i in range(len(unsafe))]))


HALVES = _split([True] * 4 + [False] * 4)
REST = _split([True] * 2 + [False] * 2)


@pytest.fixture(scope="module")
def floor() -> BagOfWords:
    train = [*UNSAFE[:4], *SAFE[:4]]
    return fit_bag_of_words((train, HALVES), ([*UNSAFE[4:], *SAFE[4:]], REST), 0.0)


def test_the_floor_knows_words_and_nothing_else(floor: BagOfWords) -> None:
    """`steal` and `forge` are in unsafe prompts alone, `the` in all; the threshold refuses no validation look-alike."""
    scores = dict(zip(["steal", "paint", "forge", "the", "unheard of"], floor.scores(
        ["steal", "paint", "forge", "the", "unheard of"]), strict=True))  # fmt: skip
    assert scores["steal"] > scores["unheard of"] > scores["paint"]
    assert scores["forge"] > scores["unheard of"]
    assert scores["the"] == pytest.approx(scores["unheard of"], abs=0.02)
    assert floor.linear.validation_auc == 1
    assert floor.linear.threshold == pytest.approx(max(floor.scores(SAFE[4:])))
    assert "steal the" in floor.terms


def test_the_threshold_follows_what_may_be_refused_of_the_look_alikes() -> None:
    """Validation scores are the states' own: look-alikes 3 and 1, a general prompt 9 that does not count; half may be refused."""
    states = np.array([[4.0], [5.0], [0.0], [1.0]])
    train = (states, REST)
    validation = (np.array([[6.0], [3.0], [1.0], [9.0]]), _split([True, False, False, False], general=(3,)))
    strict, half, everything = (fit_probe(3, train, validation, most) for most in (0.0, 0.5, 1.0))
    assert strict.layer == 3
    decided = {
        name: (one.scores(validation[0]) > one.linear.threshold).tolist()
        for name, one in (("strict", strict), ("half", half), ("everything", everything))
    }
    assert decided["strict"] == [True, False, False, True]
    assert decided["half"] == [True, True, False, True]
    assert decided["everything"] == [True] * 4


def test_the_probe_is_standardised() -> None:
    """The first dimension tells the kinds apart, the second is constant, the third is loud noise."""
    rng = np.random.default_rng(0)
    unsafe = np.array([True, False] * 30)
    states = np.stack([unsafe * 1.0, np.ones(60), 1000 * rng.standard_normal(60)], axis=1).astype(np.float32)
    split = Split(unsafe, np.ones(60, bool))
    probe = fit_probe(1, (states, split), (states[::-1], Split(unsafe[::-1], np.ones(60, bool))), 0.1)
    assert probe.linear.validation_auc == 1
    assert probe.linear.weights[0] > 4 * abs(probe.linear.weights[2])
    assert (probe.scale[1], probe.mean[1]) == (1, 1)
    assert (
        probe.linear.strength == 1e-5
    )  # any strength ranks all of them right, and the strongest regularisation is kept


def test_the_validation_split_chooses_the_regularisation() -> None:
    """A weak signal on top of noise that the second dimension shows: only a weakly regularised probe takes the noise away."""
    rng = np.random.default_rng(1)
    unsafe, noise = np.array([True, False] * 100), rng.standard_normal(200)
    states = np.stack([0.5 * unsafe + noise, noise], axis=1).astype(np.float32)
    split = Split(unsafe, np.ones(200, bool))
    probe = fit_probe(1, (states, split), (states, split), 0.1)
    assert probe.linear.strength == 0.1
    assert probe.linear.weights[1] < -0.5 * probe.linear.weights[0]


def test_kept_classifiers_score_as_before(floor: BagOfWords, tmp_path: Path) -> None:
    probe = Probe(2, (0.5, 1.0), (2.0, 1.0), Linear((1.0, -1.0), 0.25, 0.5, 0.1, 0.9))
    save(floor, tmp_path / "floor.json")
    save(probe, tmp_path / "ceiling.json")
    again, ceiling = load(tmp_path)
    assert np.array_equal(again.scores([*UNSAFE, "naïve"]), floor.scores([*UNSAFE, "naïve"]))
    # (2.5 - 0.5) / 2 - (3 - 1) / 1 + 0.25
    assert ceiling.scores(np.array([[2.5, 3.0]], dtype=np.float32)) == pytest.approx([-0.75])
    (tmp_path / "floor.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="holds no floor and ceiling"):
        load(tmp_path)


def test_one_kind_of_prompt_alone_is_named() -> None:
    with pytest.raises(DataError, match="the training split has 4 unsafe prompts of 4"):
        fit_bag_of_words((UNSAFE[:4], _split([True] * 4)), ([*UNSAFE[4:], *SAFE[4:]], REST), 0.1)
    with pytest.raises(DataError, match="the validation split has 0 unsafe prompts of 2"):
        fit_bag_of_words(([*UNSAFE[:4], *SAFE[:4]], HALVES), (SAFE[4:], _split([False] * 2)), 0.1)
    with pytest.raises(DataError, match="no words to classify by"):
        fit_bag_of_words((["?", "!"], _split([True, False])), (["a b", "c d"], _split([True, False])), 0.1)


# ---------------------------------------------------------------------------------------------------------------- stage


def _context(tmp_path: Path, models: ModelsConfig, out: str = "out", **benchmarks: Any) -> Context:
    schema = pa.schema([(name, pa.string()) for name in ("prompt_id", "prompt", "category", "kind", "split")])
    inputs = {}
    for name, category, prompts in (("safety_dataset_crime", "crime", UNSAFE), ("helpful_dataset", "helpful", SAFE)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        kinds = ["unsafe"] * 6 if category == "crime" else ["look_alike"] * 5 + ["general"]
        splits = ["train"] * 3 + ["validation"] * 2 + ["test"]
        rows = [
            {"prompt_id": f"{category}{i}", "prompt": p, "category": category, "kind": k, "split": s}
            for i, (p, k, s) in enumerate(zip(prompts, kinds, splits, strict=True))
        ]
        write_table(folder / "rows.parquet", [*rows, rows[0]], schema)  # a copy, as resampling makes them
        inputs[name] = folder
    target = tmp_path / out
    target.mkdir()
    config = Config(models=models, benchmarks=BenchmarksConfig(batch_size=4, **benchmarks))
    return Context(config, None, inputs, target, tmp_path, ArtifactStore(tmp_path / "store"), SilentReporter())


def test_the_stage_fits_both_on_the_data_sets(tmp_path: Path, tiny_models: ModelsConfig) -> None:
    """Three prompts per kind to train on, copies left out, and two per kind to validate on; two layers: the first is read."""
    shown = build_reference_classifiers(_context(tmp_path, tiny_models))
    assert (shown["train"], shown["validation"], shown["layer"]) == (6, 4, 1)
    assert [row["classifier"] for row in shown["classifiers"].rows] == ["floor", "ceiling"]
    floor, ceiling = load(tmp_path / "out")
    assert len(ceiling.linear.weights) == 32
    assert shown["floor_validation_auc"] == floor.linear.validation_auc
    assert not {"pass", "purse"} & set(floor.terms)  # words of validation and test prompts
    build_reference_classifiers(_context(tmp_path, tiny_models, "again"))
    for name in ("floor.json", "ceiling.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))


def test_the_threshold_is_a_setting(tmp_path: Path, tiny_models: ModelsConfig) -> None:
    build_reference_classifiers(_context(tmp_path, tiny_models, reference_over_refusal=0.0))
    build_reference_classifiers(_context(tmp_path, tiny_models, "loose", reference_over_refusal=0.5))
    strict, loose = load(tmp_path / "out")[0].linear, load(tmp_path / "loose")[0].linear
    assert strict.weights == loose.weights
    assert strict.threshold > loose.threshold
