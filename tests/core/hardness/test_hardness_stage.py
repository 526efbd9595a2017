"""The hardness stage: the table against sums by hand, and inputs that are refused."""

import json
import math

import pyarrow as pa
import pytest

from drirl_core.config import Config, HardnessConfig, ModelsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.graph.build import Context
from drirl_core.hardness import stage as hardness_stage
from drirl_core.reporting import Plot, SilentReporter
from drirl_core.rewards.stage import SCHEMA as REWARDS
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table, write_table

TEXT = pa.string()
ROWS = pa.schema([(n, TEXT) for n in ("prompt_id", "prompt", "answer", "split", "origin")])
POOL = pa.schema([("prompt_id", TEXT), ("policy", TEXT), ("sample", pa.int32()), ("answer", TEXT)])


class PlaneEncoder:
    """Encode texts that are angles in degrees, so that cosines can be computed by hand."""

    def encode(self, texts, reporter=None):
        import numpy as np

        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def row(key, split="train", answer="0", origin="pool"):
    return {"prompt_id": key, "prompt": f"prompt {key}", "answer": answer, "split": split, "origin": origin}


def completion(key, angle, sample=0, policy="base"):
    return {"prompt_id": key, "policy": policy, "sample": sample, "answer": str(angle)}


# Prompt a: completions at 0 and 60 degrees, W = (1 + .5) / 2 = .75. Prompt b: at 90 twice, W = 0. Gaps: a 1, b 3.
DATASET = [row("a"), row("b"), row("c", "test"), row("a", origin="resampled")]
COMPLETIONS = [
    completion("b", 90),
    completion("b", 90, 1),
    completion("a", 0),
    completion("a", 60, 1),
    completion("c", 0),
    completion("a", 0, policy="corrupted"),
]
SCORES = [
    ("a", "demonstration", 0, 2.0),
    ("a", "base", 0, 0.5),
    ("a", "base", 1, 1.5),
    ("b", "demonstration", 0, 1.0),
    ("b", "base", 0, -2.0),
    ("b", "base", 1, -2.0),
]


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(hardness_stage, "Embedder", lambda models, store: PlaneEncoder())

    def run(completions=COMPLETIONS, scores=SCORES, dataset=DATASET, seed=0, pool="completion_pool", **settings):
        out = tmp_path / "out"
        for name in ("dataset", "pool", "rewards", "out"):
            (tmp_path / name).mkdir(exist_ok=True)
        write_table(tmp_path / "dataset/rows.parquet", dataset, ROWS)
        write_table(tmp_path / "pool/completions.parquet", completions, POOL)
        rewards = [{"prompt_id": p, "split": "train", "policy": q, "sample": k, "reward": r} for p, q, k, r in scores]
        write_table(tmp_path / "rewards/rewards.parquet", rewards, REWARDS)
        config = Config(
            models=ModelsConfig(policy="path:x", encoder="path:y"), hardness=HardnessConfig(**settings), seed=seed
        )
        inputs = {
            "safety_dataset_insult": tmp_path / "dataset",
            f"{pool}_insult": tmp_path / "pool",
            "reward_model_insult": tmp_path / "rewards",
        }
        shown = hardness_stage.build_hardness(
            Context(config, "insult", inputs, out, tmp_path, ArtifactStore(tmp_path / "s"), SilentReporter())
        )
        return shown, read_table(out / "hardness.parquet"), json.loads((out / "constants.json").read_text())

    return run


def s(x):
    return 1 / (1 + math.exp(-x))


def test_the_table_by_hand(build):
    """delta .25, 1, mean .625; gaps 1, 3, mean 2, both 1 away: all kept, alphaM 1, alpha = s(delta) / s(.625)."""
    shown, rows, constants = build()
    assert [r["prompt_id"] for r in rows] == ["a", "b"]
    assert [r["similarity"] for r in rows] == pytest.approx([0.75, 0.0], abs=1e-6)
    assert [r["gap"] for r in rows] == pytest.approx([1.0, 3.0])
    assert [r["alpha"] for r in rows] == pytest.approx([s(0.25) / s(0.625), s(1.0) / s(0.625)], abs=1e-6)
    assert [r["kept"] for r in rows] == [True, True]
    assert {k: constants[k] for k in ("tau", "mean_gap", "filtered_gap", "alpha_m", "n", "policy")} == {
        "tau": 1.0, "mean_gap": 2.0, "filtered_gap": 2.0, "alpha_m": 1.0, "n": 2, "policy": "base",
    }  # fmt: skip
    assert constants["mean_delta"] == pytest.approx(0.625)
    assert shown["alpha_max"] == pytest.approx(s(1.0) / s(0.625), abs=1e-4)
    assert [r["prompt"] for r in shown["hardest_and_easiest"].rows] == ["prompt b", "prompt a"]
    assert isinstance(shown["alpha_plot"], Plot) and shown["alpha_plot"].path.is_file()


def test_completions_of_the_initial_policy_are_preferred(build):
    """sft completions at 0 degrees: W = 1 for both prompts, gaps 1.75 and 1."""
    sft = [completion("a", 0, policy="sft"), completion("b", 0, policy="sft")]
    _, rows, constants = build([*COMPLETIONS, *sft], [*SCORES, ("a", "sft", 0, 0.25), ("b", "sft", 0, 0.0)])
    assert [r["similarity"] for r in rows] == pytest.approx([1.0, 1.0])
    assert [r["gap"] for r in rows] == pytest.approx([1.75, 1.0])
    assert constants["policy"] == "sft"


def test_completions_of_the_round_before_where_the_policy_goes_on_from_there(build):
    """The pool of round 1 alone: one completion at 0 degrees each, W = 1; gaps 2 - 0.5 and 1 - 0.25."""
    own = [completion(key, 0, policy="round_1") for key in "ab"]
    scores = [*SCORES, ("a", "round_1", 0, 0.5), ("b", "round_1", 0, 0.25)]
    _, rows, constants = build(own, scores, pool="round_1_completion_pool")
    assert [r["similarity"] for r in rows] == pytest.approx([1.0, 1.0])
    assert [r["gap"] for r in rows] == pytest.approx([1.5, 0.75])
    assert constants["policy"] == "round_1"
    with pytest.raises(DataError, match="round_1_completion_pool_insult has no completion of the round_1 policy for 1"):
        build(own[:1], scores, pool="round_1_completion_pool")


def test_shuffled_gives_each_alpha_to_another_prompt(build):
    _, true, _ = build()
    _, placebo, _ = build(combine="shuffled")
    assert [r["alpha"] for r in placebo] == [r["alpha"] for r in true][::-1]


def test_a_fixed_tau_that_keeps_no_gap_is_an_error(build):
    with pytest.raises(TrainingError, match=r"raise hardness\.tau"):
        build(tau=0.5)


def test_inputs_that_do_not_match_are_refused(build):
    with pytest.raises(DataError, match="no completion of the base policy for 1 training prompts, such as b"):
        build([c for c in COMPLETIONS if c["prompt_id"] != "b"])
    with pytest.raises(DataError, match="no reward for prompt b"):
        build(scores=SCORES[:3])
    with pytest.raises(DataError, match="no training prompts"):
        build(dataset=[row("c", "test")])


def test_equal_inputs_give_equal_bytes(build, tmp_path):
    def files():
        build()
        return {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    assert files() == files()
    assert len(files()) == 3
