"""The graph of further rounds: which assets there are, what they are made from, and what a change makes anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import BASELINES, TRAINED, Config, load_config
from drirl_core.graph.layout import Graph, build_graph, dataset_name
from drirl_core.graph.rounds import ROUND_STAGES, number_of
from drirl_core.graph.versions import code_version
from drirl_core.taxonomy import SEVEN_CATEGORIES

EVERY = (*SEVEN_CATEGORIES, "helpful")
PREVIOUS = {"rewards.round_start": "previous"}


def _config(folder: Path, rounds: int, overrides: dict[str, Any] | None = None) -> Config:
    file = folder / "run.yaml"
    file.write_text("models: {policy: 'hf:a/policy', encoder: 'hf:a/encoder'}\n", encoding="utf-8")
    return load_config(file, {"rewards.rounds": rounds, **(overrides or {})})


def _graph(folder: Path, rounds: int, overrides: dict[str, Any] | None = None) -> Graph:
    return build_graph(_config(folder, rounds, overrides))


def _inputs(graph: Graph, name: str) -> set[str]:
    return set(graph.nodes[name].inputs)


def test_one_round_has_no_stage_of_rounds(tmp_path: Path) -> None:
    """The graph is that of a configuration that does not know of rounds, whatever else is said about them."""
    plain = _graph(tmp_path, 1, {"baselines": [*BASELINES]})
    assert not [name for name in plain.nodes if "round" in name]
    assert not {node.stage for node in plain.nodes.values()} & ROUND_STAGES.keys()
    assert _graph(tmp_path, 1, {"baselines": [*BASELINES], "rewards.round_samples": 5, **PREVIOUS}) == plain


def test_three_rounds_are_two_more_of_rewards_policy_and_pools(tmp_path: Path) -> None:
    """Each learns from the pools of all rounds before it; the last one has the names that a single one has."""
    one, three = _graph(tmp_path, 1), _graph(tmp_path, 3)
    more = {f"round_{n}_{kind}_{c}" for n in (1, 2) for kind in ("reward_model", "completion_pool") for c in EVERY}
    assert set(three.nodes) - set(one.nodes) == more | {"round_1_policy", "round_2_policy"}
    assert set(one.nodes) < set(three.nodes)
    seen = set(three.sources)
    for node in three.nodes.values():
        assert set(node.inputs) <= seen, node.name
        seen.add(node.name)
    first = {"safety_dataset_insult", "completion_pool_insult"}
    assert _inputs(three, "round_1_reward_model_insult") == first
    assert _inputs(three, "round_2_reward_model_insult") == first | {"round_1_completion_pool_insult"}
    assert _inputs(three, "reward_model_insult") == first | {f"round_{n}_completion_pool_insult" for n in (1, 2)}
    datasets = set(map(dataset_name, EVERY))
    for number in (1, 2):
        rewards = {f"round_{number}_reward_model_{c}" for c in EVERY}
        assert _inputs(three, f"round_{number}_policy") == datasets | rewards | {"sft_checkpoint"}
        assert _inputs(three, f"round_{number}_completion_pool_helpful") == {
            "helpful_dataset", f"round_{number}_policy", f"round_{number}_reward_model_helpful",
        }  # fmt: skip
    assert _inputs(three, "policy_checkpoint") == _inputs(one, "policy_checkpoint")
    assert _inputs(three, "benchmark_embedded") == _inputs(one, "benchmark_embedded")
    assert _inputs(three, "report") - _inputs(one, "report") == more | {"round_1_policy", "round_2_policy"}


def test_policies_may_start_where_the_round_before_ended(tmp_path: Path) -> None:
    """So do the baselines that differ from DR-IRL in alpha alone; those with a reward of their own start as ever."""
    graph = _graph(tmp_path, 3, {**PREVIOUS, "baselines": [*BASELINES]})
    starts = {
        name: _inputs(graph, name) & {"sft_checkpoint", "round_1_policy", "round_2_policy"}
        for name in ("round_1_policy", "round_2_policy", "policy_checkpoint", *(f"{b}_checkpoint" for b in TRAINED))
    }
    assert starts.pop("round_1_policy") == {"sft_checkpoint"}
    assert starts.pop("round_2_policy") == {"round_1_policy"}
    moved = {name for name, start in starts.items() if start == {"round_2_policy"}}
    assert moved == {
        *(
            "policy_checkpoint",
            "grpo_checkpoint",
            "staged_competence_checkpoint",
            "rloo_checkpoint",
            "rloo_s_checkpoint",
        )
    }
    assert all(starts[name] == {"sft_checkpoint"} for name in starts.keys() - moved)
    pools = {"round_2_completion_pool_insult"}
    assert _inputs(graph, "hardness_insult") == {"safety_dataset_insult", "reward_model_insult"} | pools
    assert "completion_pool_insult" in _inputs(_graph(tmp_path, 3), "hardness_insult")
    base = _graph(tmp_path, 2, {"policy.start": "base", "completions.samples": {"base": 1}})
    assert not [name for name in _inputs(base, "round_1_policy") if not name.startswith(("safety", "helpful", "round"))]


def test_what_is_learned_on_the_same_pools_reads_those_of_all_rounds(tmp_path: Path) -> None:
    graph = _graph(tmp_path, 2, {"baselines": [*BASELINES]})
    readers = {name for name in graph.nodes if "round_1_completion_pool_insult" in graph.nodes[name].inputs}
    assert readers == {"reward_model_insult", "joint_reward_model", "proposition_reward", "report"}


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_a_round_changes_no_version_of_the_ones_before(tmp_path: Path, rounds: int) -> None:
    """What is made anew is made anew by its inputs: those of the final rewards are the new pools."""
    fewer, more = _config(tmp_path, rounds - 1), _config(tmp_path, rounds)
    before, after = build_graph(fewer), build_graph(more)
    for name, node in before.nodes.items():
        assert code_version(node, fewer) == code_version(after.nodes[name], more), name
    moved = {name for name, node in before.nodes.items() if set(node.inputs) != set(after.nodes[name].inputs)}
    assert moved == {"report", *(f"reward_model_{c}" for c in EVERY)}


@pytest.mark.parametrize(
    ("overrides", "stale"),
    [
        ({"rewards.round_samples": 3}, {"completion_pool"}),
        ({"rewards.beta": 2.0}, {"reward_model"}),
        ({"policy.kl": 0.1}, {"policy"}),
        ({"policy.seed": 3}, {"policy"}),
        ({"hardness.combine": "shuffled", "hardness.sharpness": 2.0}, set()),
        ({"policy.save_steps": 1, "policy.rloo_trl": {"top_k": 5}}, set()),
        ({"completions.temperature": 0.5}, {"completion_pool"}),
        ({"completions.contrast": {"corrupted": 2}}, set()),
        ({"checks.max_kl": 1.0, "benchmarks.max_new_tokens": 3}, set()),
    ],
)
def test_a_setting_makes_stale_what_it_decides_of_a_round(
    tmp_path: Path, overrides: dict[str, Any], stale: set[str]
) -> None:
    before, after = _config(tmp_path, 3), _config(tmp_path, 3, overrides)
    nodes = [node for name, node in build_graph(before).nodes.items() if name.startswith("round_")]
    changed = {node.stage for node in nodes if code_version(node, before) != code_version(node, after)}
    assert changed == {f"round_{number}_{kind}" for number in (1, 2) for kind in stale}


def test_the_number_of_an_asset() -> None:
    assert [number_of(name) for name in ("round_1_policy", "round_4_completion_pool_insult")] == [1, 4]
    for name in ("policy_checkpoint", "round_5_policy", "round_x_policy", "rounds_1", ""):
        with pytest.raises(ValueError, match=rf"'{name}' is no asset of a round; those are called round_1_"):
            number_of(name)
