"""Plans of complete configurations: every stage, what does not fit, and why."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from drirl_core.config import Config
from drirl_core.planning.fitting import with_changes
from drirl_core.planning.gpus import GIB, Gpu, gpu_named
from drirl_core.planning.plan import Counted, GpuPlan, as_data, count, plan_for
from drirl_core.planning.stages import StagePlan
from drirl_core.testing import tiny_config

H100 = gpu_named("h100")
LARGE = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "head_dim": 128,
}  # fmt: skip
"""Llama-3.1-8B."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The shape of an 8B without weights, and the settings of configs/llama-3.1-8b.yaml for GRPO."""
    folder = tmp_path_factory.mktemp("large")
    config = tiny_config(folder)
    described = folder / "policy" / "config.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), **LARGE}))
    (folder / "policy" / "model.safetensors").unlink()
    return with_changes(
        config,
        {
            "models.dtype": "auto",
            "policy.prompts_per_step": 32, "policy.num_generations": 8, "policy.micro_batch": 16,
            "policy.max_new_tokens": 256, "policy.lora.rank": 64, "policy.steps": 400,
        },
    )  # fmt: skip


_COUNTED: dict[str, Counted] = {}


def _plan(config: Config, card: Gpu | None = H100) -> GpuPlan:
    """Plan; the same files and models are counted once."""
    assert card is not None
    key = f"{config.models} {config.prompts} {config.demonstrations} {config.benchmarks}"
    if key not in _COUNTED:
        _COUNTED[key] = count(config)
    return plan_for(config, card, _COUNTED[key])


def _stage(config: Config, name: str, card: Gpu | None = H100) -> StagePlan:
    return next(stage for stage in _plan(config, card).stages if stage.name == name)


def test_every_stage_with_a_model_is_planned(tiny: Config) -> None:
    found = _plan(tiny)
    assert [stage.name for stage in found.stages] == [
        "sft_checkpoint", "completion_pool_*", "reward_model_*", "hardness_*", "policy_checkpoint",
        "reference_classifiers", "benchmark_embedded", "benchmark_twins",
    ]  # fmt: skip
    assert found.refusals == () or list(found.refusals) == []
    assert found.seconds is not None and found.seconds > 0


def test_baselines_are_planned_too(tiny: Config) -> None:
    found = _plan(with_changes(tiny, {"baselines": ("dpo", "irft", "rloo", "verifiable")}))
    names = [stage.name for stage in found.stages]
    assert names[5:9] == ["dpo_checkpoint", "irft_checkpoint", "rloo_checkpoint", "verifiable_checkpoint"]


def test_best_of_n_is_planned_by_its_samples(tiny: Config) -> None:
    """It trains nothing, and the benchmark samples nothing for it. Four prompts are a batch, of two samples two."""
    tiny = with_changes(tiny, {"benchmarks.batch_size": 4})
    plans = [_plan(with_changes(tiny, {"baselines": ("best_of_n",), "benchmarks.best_of": n})) for n in (2, 6)]
    new = ["best_of_n_embedded", "best_of_n_twins"]
    assert [stage.name for stage in plans[0].stages if stage not in _plan(tiny).stages] == new
    few, many = (next(stage for stage in one.stages if stage.name == new[1]) for one in plans)
    assert [phase.name for phase in few.phases] == ["sampling", "hidden states", "hidden states"]
    assert few.phases[0].seconds and many.phases[0].seconds == pytest.approx(3 * few.phases[0].seconds)
    assert many.phases[1].seconds == few.phases[1].seconds  # the probe reads prompts alone
    embedded = with_changes(tiny, {"baselines": ("best_of_n",), "rewards.backbone": "embedding"})
    assert [phase.name for phase in _stage(embedded, new[0]).phases] == ["sampling", "hidden states", "embeddings"]


def test_the_prompts_of_the_files_are_counted(tiny: Config) -> None:
    """Quotas of 6 for seven categories, and 120 harmless prompts; the byte tokenizer reads a token per character."""
    load = _plan(tiny).load
    assert (load.unsafe, load.harmless, load.categories) == (42, 120, 7)
    assert 30 < load.prompts.mean < load.prompts.longest <= 512
    more, all_of_one = (
        {"demonstrations.category_quota": {"insult": 20}},
        {"demonstrations.category_quota": {"insult": 0}},
    )
    assert _plan(with_changes(tiny, more)).load.unsafe == 56
    assert _plan(with_changes(tiny, all_of_one)).load.unsafe == 246  # 210 lines of the category, 6 of the others each


def test_rows_of_the_start_and_prompts_without_answers_are_counted(tiny: Config) -> None:
    """Batches of 8 of two rows per category and all harmless ones, then of 8 harmless ones; then five prompts per row."""
    few = with_changes(tiny, {"sft.helpful_rows": 8})
    beside = with_changes(tiny, {"sft.decision": 2.0, "sft.decision_prompts": 5})
    every, some, more = (_stage(config, "sft_checkpoint").phases[0] for config in (tiny, few, beside))
    steps = math.ceil((14 + 120 * _plan(tiny).load.train) / 8)
    assert every.seconds and some.seconds
    assert some.seconds / every.seconds == pytest.approx(math.ceil((14 + 8) / 8) / steps)
    assert more.parts.activations > 3 * every.parts.activations


def test_rewards_on_hidden_states_hold_a_second_copy_of_the_model(large: Config) -> None:
    copy = _stage(large, "policy_checkpoint").peak.parts.other_models
    without = _stage(with_changes(large, {"rewards.backbone": "embedding"}), "policy_checkpoint").peak.parts
    assert _stage(large, "policy_checkpoint").peak.parts.weights == pytest.approx(8.03e9 * 2, rel=0.01)
    assert copy - without.other_models == without.weights


def test_reward_adapters_share_the_frozen_copy_and_are_learned_without_checkpointing(large: Config) -> None:
    adapted = with_changes(large, {"rewards.backbone": "adapter"})
    assert {phase.name for phase in _stage(adapted, "policy_checkpoint").phases} >= {"rollouts", "reward adapters"}
    learning = _stage(adapted, "reward_model_*").peak.parts
    assert learning.largest == "activations" or learning.activations > 8 * GIB
    fewer = _stage(with_changes(adapted, {"rewards.adapter.micro_tokens": 1024}), "reward_model_*").peak.parts
    assert fewer.activations < learning.activations  # the answers of one prompt stay together


def test_an_8b_fits_on_a_card_of_80_gb_and_not_on_one_of_24(large: Config) -> None:
    assert _plan(large).refusals == []
    small = gpu_named("rtx4090")
    refusal = next(one for one in _plan(large, small).refusals if one.stage == "policy_checkpoint")
    assert refusal.needs > refusal.has == _plan(large, small).gpu.usable
    assert not refusal.changes or _fits(with_changes(large, refusal.changes), small)


def test_full_fine_tuning_of_an_8b_is_refused_with_adapters_as_the_way_out(large: Config) -> None:
    every = with_changes(large, {"policy.lora.rank": 0})
    refusal = next(one for one in _plan(every).refusals if one.stage == "policy_checkpoint")
    assert refusal.changes == {"policy.lora.rank": 16}
    assert "set policy.lora.rank to 16" in str(refusal)
    assert _fits(with_changes(every, refusal.changes))


def test_the_proposed_value_is_the_largest_that_fits(large: Config) -> None:
    heavy = with_changes(large, {"completions.batch_size": 1024, "completions.max_new_tokens": 1024})
    refusal = next(one for one in _plan(heavy).refusals if one.stage == "completion_pool_*")
    size = refusal.changes["completions.batch_size"]
    stage = _stage(with_changes(heavy, {"completions.batch_size": size}), "completion_pool_*")
    more = _stage(with_changes(heavy, {"completions.batch_size": size + 64}), "completion_pool_*")
    usable = _plan(heavy).gpu.usable
    assert stage.peak.parts.total <= usable < more.peak.parts.total


def _fits(config: Config, card: Gpu | None = H100) -> bool:
    return "policy_checkpoint" not in [refusal.stage for refusal in _plan(config, card).refusals]


def test_weights_that_are_too_large_name_a_card(large: Config) -> None:
    card = Gpu("small", 5 * GIB)
    refusal = next(one for one in _plan(large, card).refusals if one.stage == "completion_pool_*")
    assert refusal.changes == {}
    assert "no setting makes it fit; take a card such as" in str(refusal)
    found = _plan(large, card)
    assert found.larger and not _plan(large, gpu_named(found.larger)).refusals
    assert _plan(large).larger is None


def test_four_bits_are_the_last_resort(large: Config) -> None:
    """The weights of an 8B model take 15 GiB in bfloat16 and 5.3 GiB in four bits, head and embedding whole."""
    card = Gpu("small", 12 * GIB)
    refusal = next(one for one in _plan(large, card).refusals if one.stage == "completion_pool_*")
    assert refusal.changes["models.quantization"] == "4bit"
    changed = with_changes(large, refusal.changes)
    assert "completion_pool_*" not in [one.stage for one in _plan(changed, card).refusals]
    assert any("four bits" in note for note in _plan(changed, card).notes)


def test_a_size_has_no_times(tiny: Config) -> None:
    card = gpu_named("24GiB")
    found = _plan(tiny, card)
    assert found.seconds is None and all(stage.seconds is None for stage in found.stages)
    assert any("no" in note or "alone" in note for note in found.notes)


def test_the_plan_says_what_it_does_not_know_of_vllm(tiny: Config) -> None:
    sampled = dataclasses.replace(tiny, execution=dataclasses.replace(tiny.execution, sampler="vllm"))
    assert "The engine takes 50% of the card" in " ".join(_plan(sampled).notes)
    assert "vllm" not in " ".join(_plan(tiny).notes)


def test_several_cards_divide_nothing(tiny: Config) -> None:
    one, eight = _plan(tiny), _plan(tiny, gpu_named("h100:8"))
    assert one.seconds == eight.seconds
    assert "A stage computes on one card" in " ".join(eight.notes)


def test_processes_divide_the_frozen_weights_of_a_training(large: Config) -> None:
    """An 8B of which four processes hold a part each: both copies of GRPO shrink, a pool is sampled from all of it."""
    divided = with_changes(large, {"execution.processes": 4, "execution.sharding": "fsdp2"})
    for name in ("sft_checkpoint", "policy_checkpoint"):
        assert _stage(divided, name).peak.parts.weights < 0.5 * _stage(large, name).peak.parts.weights
    assert _stage(divided, "policy_checkpoint").peak.parts.other_models < 9 * GIB
    assert _stage(divided, "completion_pool_*").peak.parts == _stage(large, "completion_pool_*").peak.parts
    assert any("divide the frozen weights among 4 processes" in note for note in _plan(divided).notes)


def test_all_figures_are_plain_data(tiny: Config) -> None:
    document = json.loads(json.dumps(as_data(_plan(tiny))))
    stage = document["stages"][0]
    assert stage["fits"] and stage["peak"] == max(phase["total"] for phase in stage["phases"])
    phase = stage["phases"][0]
    parts = ("weights", "other_models", "adapters", "gradients", "optimiser", "activations", "kv_cache", "logits")
    assert phase["total"] == sum(phase[name] for name in parts)


def test_a_policy_without_config_json_is_named(tiny: Config, tmp_path: Path) -> None:
    from drirl_core.errors import ModelError

    with pytest.raises(ModelError, match=r"config\.json is not on this machine"):
        _plan(with_changes(tiny, {"models.policy": f"path:{tmp_path}"}))
