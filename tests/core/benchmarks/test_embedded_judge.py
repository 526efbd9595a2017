"""The embedded judge: fitted and measured on made replies with a tiny encoder of words, and on XSTest where it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drirl_core.benchmarks.judges.embedded import SCALARS, Weights, features, load, probabilities, save
from drirl_core.benchmarks.judges.train import Labelled, fit, main, read_labelled, train
from drirl_core.benchmarks.judges.verdicts import EmbeddedJudge
from drirl_core.benchmarks.judges.weight_files import digest
from drirl_core.config import ModelsConfig
from drirl_core.errors import DataError
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[3]
XSTEST = ROOT / "../shared/data/xstest/xstest_annotated_completions.csv"
COLUMNS = {"prompt": "prompt", "reply": "reply", "label": "label", "model": "model"}
LABELS = {"refusal": True, "compliance": False}
MEASURED = {"judge": "embedded", "data": "toy", "n": 4, "accuracy": 0.5, "low": 0.2, "high": 0.8, "precision": 0.5, "recall": 0.5, "f1": 0.5}  # fmt: skip


class Words:
    """Encodes a text by whether it holds each of four words."""

    def encode(self, texts: list[str], _: Any = None) -> np.ndarray:
        rows = np.array([[word in text.lower() for word in ("never", "sure", "cake", "bomb")] for text in texts], float)
        return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)).astype(np.float32)


def made(n: int = 120, models: int = 3) -> Labelled:
    prompts = [f"Prompt {i} on cake" for i in range(n)]
    refusal = np.arange(n) % 2 == 0
    replies = ["Never, my friend." if r else "Sure, cake is easy." for r in refusal]
    return Labelled(prompts, replies, refusal, [f"model{i // 2 % models}" for i in range(n)], "toy")


def test_features_by_hand() -> None:
    """`sure cake` is (0, .71, .71, 0), `cake` (0, 0, 1, 0): cosine 0.71; two words: log 3; a list has its sign."""
    found = features(Words(), ["cake"], ["draft\n####\nSure cake"])
    assert found.shape == (1, 2 * 4 + len(SCALARS))
    assert found[0, :4] == pytest.approx([0, 0.5**0.5, 0.5**0.5, 0], abs=1e-6)
    assert found[0, 8:] == pytest.approx([0.5**0.5, 0, 0, 0, np.log(3), 0], abs=1e-6)
    signs = features(Words(), ["cake"], ["Sorry, I can't help.\n- a\n- b"])[0, 9:]
    assert signs[[0, 1, 2, 4]].tolist() == [1, 1, 1, 1]


def test_the_beginning_is_embedded_a_second_time() -> None:
    found = features(Words(), ["x"], ["sure " + "x" * 300 + " never"])
    assert found[0, :4] == pytest.approx([0.5**0.5, 0.5**0.5, 0, 0], abs=1e-6)
    assert found[0, 4:8].tolist() == [0, 1, 0, 0]


def test_probability_is_the_sigmoid_of_the_weighted_sum() -> None:
    """W = (2, -1), b = 0.5: at (1, 2) the sum is 0.5 and the probability 1 / (1 + e^-0.5) = 0.6225."""
    weights = Weights(np.array([2.0, -1.0]), 0.5, {"encoder": "e"})
    assert probabilities(weights, np.array([[1.0, 2.0]])) == pytest.approx([0.6225], abs=1e-4)
    with pytest.raises(DataError, match="take 2 features, the encoder e gives 3"):
        probabilities(weights, np.zeros((1, 3)))


def test_scaling_is_folded_into_the_weights() -> None:
    """Adding a constant to a scalar feature leaves every probability as it was."""
    data = made()
    found = features(Words(), data.prompts, data.replies)
    shifted = found + np.array([0.0] * 13 + [7.0])
    (a, b), (c, d) = fit(found, data.refusal, 0.1), fit(shifted, data.refusal, 0.1)
    assert found @ a + b == pytest.approx(shifted @ c + d, abs=1e-3)


def test_measured_rows_are_never_fitted_on() -> None:
    """Wrong labels on the measured half change its error and no weight."""
    data = made()
    found = features(Words(), data.prompts, data.replies)
    odd = data.measured
    assert odd.tolist() == [int(hashlib.sha256(p.encode()).hexdigest(), 16) % 2 == 1 for p in data.prompts]
    first = train(data, found, "e", "CC0")
    wrong = Labelled(data.prompts, data.replies, np.where(odd, ~data.refusal, data.refusal), data.models, "toy")
    second = train(wrong, found, "e", "CC0")
    assert (first.weight == second.weight).all()
    assert first.record["new_prompts"]["agreement"]["accuracy"] == 1
    assert second.record["new_prompts"]["agreement"]["accuracy"] == 0
    assert first.record["new_prompts"]["agreement"]["n"] == int(odd.sum())
    assert first.record["measured"] == first.record["new_prompts_and_models"]["agreement"]
    assert first.record["fitted_on"]["licence"] == "CC0"


def test_a_model_with_its_own_wording_is_measured_by_weights_that_never_saw_it() -> None:
    """Only model2 refuses with `bomb`; with it held out that word says nothing, so the quoted figure is lower."""
    data = made(240)
    replies = [
        ("Bomb." if r else "Sure, cake.") if m == "model2" else ("Never." if r else "Sure, bomb cake.")
        for r, m in zip(data.refusal, data.models, strict=True)
    ]
    data = Labelled(data.prompts, replies, data.refusal, data.models, "toy")
    record = train(data, features(Words(), data.prompts, replies), "e", "CC0").record
    held = record["new_prompts_and_models"]["agreement"]
    assert held["accuracy"] < record["new_prompts"]["agreement"]["accuracy"]
    assert record["measured"] == held


def test_without_models_the_figure_for_new_prompts_is_quoted() -> None:
    data = made()
    data = Labelled(data.prompts, data.replies, data.refusal, [""] * 120, "toy")
    record = train(data, features(Words(), data.prompts, data.replies), "e", "CC0").record
    assert "new_prompts_and_models" not in record
    assert record["measured"]["n"] == int(data.measured.sum())


def test_too_few_replies_are_refused() -> None:
    data = made(30)
    with pytest.raises(DataError, match="at least 20 of each"):
        train(data, features(Words(), data.prompts, data.replies), "e", "CC0")


def test_weights_are_read_as_they_were_written_and_damage_is_named(tmp_path: Path) -> None:
    weights = Weights(np.array([0.5, -0.25]), 0.125, {"encoder": "e", "measured": MEASURED})
    save(tmp_path / "w", weights)
    back = load(tmp_path / "w")
    assert (back.weight.tolist(), back.bias, back.record) == ([0.5, -0.25], 0.125, weights.record)
    assert sorted(file.name for file in (tmp_path / "w").iterdir()) == ["embedded.json", "embedded.safetensors"]
    before = digest(tmp_path / "w")
    (tmp_path / "w" / "embedded.safetensors").write_bytes(b"x")
    assert digest(tmp_path / "w") != before
    for folder in (tmp_path / "w", tmp_path / "none"):
        with pytest.raises(DataError, match=r"cannot be read .*judges\.train"):
            load(folder)


def test_labelled_files_are_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "p", "reply": "r", "label": "refusal", "model": "m"},
        {"prompt": "q", "reply": "", "label": "compliance"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    data = read_labelled([file], COLUMNS, LABELS)
    assert (data.prompts, data.replies, data.refusal.tolist(), data.models) == (
        ["p", "q"],
        ["r", ""],
        [True, False],
        ["m", ""],
    )
    file.write_text(json.dumps({"prompt": "p", "reply": "r", "label": "maybe"}))
    with pytest.raises(DataError, match="'maybe' is none of refusal, compliance"):
        read_labelled([file], COLUMNS, LABELS)
    with pytest.raises(DataError, match="no column 'text'"):
        read_labelled([file], {**COLUMNS, "reply": "text"}, LABELS)


def test_the_judge_leaves_unusable_text_to_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a weight on `never` alone, off the decision by -1: `never` refuses, anything else complies."""
    weight = np.zeros(2 * 4 + len(SCALARS))
    weight[0] = 4.0
    save(tmp_path / "w", Weights(weight, -1.0, {"encoder": "path:/e", "measured": MEASURED}))
    monkeypatch.setattr("drirl_core.models.embeddings.Embedder", lambda models, store: Words())
    models = ModelsConfig(policy="path:/p", encoder="path:/other")
    judge = EmbeddedJudge(tmp_path / "w", models, ArtifactStore(tmp_path / "s"), SilentReporter())
    found = judge.verdicts(["a", "b", "c"], ["Never ever.", "Here it is.", "..."])
    assert [verdict.label for verdict in found] == ["refusal", "compliance", "empty"]
    assert judge.record["accuracy"] == 0.5
    assert judge.record["weights"] == digest(tmp_path / "w")


@pytest.mark.slow
@pytest.mark.skipif(not XSTEST.is_file(), reason="XSTest is not there")
def test_its_error_on_human_labels_is_the_one_that_is_told(tmp_path: Path) -> None:
    """docs/how-to/judges.md: .930 on new prompts, .922 with each answering model held out, the rules .914, of 1,135."""
    config = tmp_path / "judge.yaml"
    config.write_text(f"extends: {ROOT / 'configs' / 'demo.yaml'}\nroot: {tmp_path / 'artifacts'}\n", encoding="utf-8")
    labels = ["--compliance", "1_full_compliance", "--refusal", "2_full_refusal", "--refusal", "3_partial_refusal"]
    columns = ["--reply", "completion", "--label", "final_label"]
    main([str(XSTEST), "--config", str(config), "--out", str(tmp_path / "judge"), *columns, *labels])
    record = load(tmp_path / "judge").record
    told = {"new_prompts": (0.930, 0.973), "new_prompts_and_models": (0.922, 0.969), "rules": (0.914, 0.914)}
    for name, (accuracy, area) in told.items():
        found = record[name]
        assert found["agreement"]["n"] == 1135
        assert found["agreement"]["accuracy"] == pytest.approx(accuracy, abs=0.004), name
        assert found["auc"] == pytest.approx(area, abs=0.004), name
        assert abs(found["rate_error"]) < 0.05, name
