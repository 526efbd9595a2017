"""`run_all`, without Dagster, builds nothing on an artifact that breaks a blocking check."""

import pytest
import stub_stages

from drirl_core.errors import CheckError
from drirl_core.graph.build import run_all
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load

pytestmark = pytest.mark.usefixtures("stubbed")


def _run(folder, what="stub", **changes):
    return run_all(load(stub_stages.write_settings(folder, name=what), changes), SilentReporter())


@pytest.mark.parametrize(
    ("what", "said", "not_made"),
    [
        (
            "leak=safety_dataset_harm",
            r"safety_dataset_harm breaks no_split_leakage: 1 groups or prompts stand in more than one split\. Nothing is built",
            "completion_pool_insult",
        ),
        (
            "weak=reward_model_insult",
            r"reward_model_insult breaks accuracy_floor: the demonstration wins 0\.0% of 1 held-out pairs, at least 80% wanted\.",
            "hardness_insult",
        ),
        ("nan=sft_checkpoint", r"sft_checkpoint breaks finite: 1 steps, 1 numbers not finite\.", "reward_model_insult"),
        ("nan=policy_checkpoint", r"policy_checkpoint breaks finite: ", "benchmark_embedded"),
    ],
)
def test_a_broken_promise_stops_the_run(tmp_path, what, said, not_made):
    with pytest.raises(CheckError, match=said):
        _run(tmp_path, what)
    store = load(tmp_path / "stub.yaml").store
    assert store.was_made(what.partition("=")[2]), "what was judged stays, to be looked at"
    assert not store.was_made(not_made)


def test_another_bound_lets_it_go_on_from_what_was_made(tmp_path):
    with pytest.raises(CheckError, match="accuracy_floor"):
        _run(tmp_path, "weak=reward_model_insult")
    before = load(tmp_path / "stub.yaml").store.latest("reward_model_insult").version
    made = _run(tmp_path, "weak=reward_model_insult", **{"checks.min_accuracy": 0.0})
    assert made["reward_model_insult"].version == before
    with pytest.raises(CheckError, match="accuracy_floor"):
        _run(tmp_path, "weak=reward_model_insult")  # asked of what exists as well


def test_warnings_and_gates_stop_nothing(tmp_path):
    """The stub policy over-refuses, which a benchmark warns about and a gate of its candidate refuses."""
    assert "promotion_candidate" in _run(tmp_path)
