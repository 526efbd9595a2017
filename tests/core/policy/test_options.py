"""TRL's options: what is passed on, what is refused before anything loads, and what decides a version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import BASELINES, Config, from_resolved, load_config, resolved
from drirl_core.errors import ConfigError
from drirl_core.graph.versions import code_version
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.options import option_problems, options_in
from drirl_core.policy.sft import build_sft_checkpoint
from drirl_core.preflight import find_problems
from drirl_core.project import Project
from drirl_core.testing import tiny_config

ROOT = Path(__file__).parents[3]
SECTIONS = ("sft.trl", "dpo.trl", "policy.trl", "policy.rloo_trl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("options")
    tiny_config(found)
    return found


def problem(folder: Path, section: str, **options: Any) -> str:
    (found,) = option_problems(tiny_config(folder, {section: options}))
    return found


# --------------------------------------------------------------------------------------------------------- the settings


def test_a_mapping_is_read_from_yaml_and_from_set_and_merged(folder: Path, tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(
        f"extends: {folder / 'smoke.yaml'}\npolicy:\n  trl: {{top_k: 20, mask_truncated_completions: true}}\n"
    )
    own.write_text("extends: base.yaml\npolicy:\n  trl:\n    top_k: 40\n    lr_scheduler_kwargs: {power: 2.0}\n")
    config = load_config(own, {"policy.trl.top_p": 0.5, "sft.trl": {"optim": "sgd", "max_grad_norm": 5e-1}})
    kwargs = {"power": 2.0}
    both = {"top_k": 40, "mask_truncated_completions": True, "lr_scheduler_kwargs": kwargs, "top_p": 0.5}
    assert config.policy.trl == both
    assert options_in(config) == {"sft.trl": {"optim": "sgd", "max_grad_norm": 0.5}, "policy.trl": both}
    assert from_resolved(resolved(config)) == config
    assert from_resolved(yaml.safe_load(yaml.safe_dump(resolved(config)))) == config
    assert list(option_problems(config)) == []


def test_what_no_file_can_hold_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.trl\.delta is inf; give a finite number"):
        tiny_config(folder, {"policy.trl.delta": float("inf")})
    with pytest.raises(ConfigError, match=r"policy\.trl\.a\[1\] is .*object.*; give a number, a text, a list or a"):
        tiny_config(folder, {"policy.trl.a": [1, object()]})
    with pytest.raises(ConfigError, match=r"dpo\.trl is 3; give keys and values"):
        tiny_config(folder, {"dpo.trl": 3})


def _versions(config: Config) -> dict[str, str]:
    return {name: code_version(node, config) for name, node in Project(config).graph.nodes.items()}


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        ("sft.trl", {"sft_checkpoint"}),
        ("dpo.trl", {"dpo_checkpoint", "dpo_s_checkpoint", "irft_checkpoint"}),
        (
            "policy.trl",
            {
                *("policy_checkpoint", "joint_checkpoint", "grpo_checkpoint", "staged_competence_checkpoint"),
                *("verifiable_checkpoint", "propositions_checkpoint"),
            },
        ),
        ("policy.rloo_trl", {"rloo_checkpoint", "rloo_s_checkpoint"}),
    ],
)
def test_options_decide_the_trainings_that_read_them_and_nothing_else(
    folder: Path, section: str, changed: set[str]
) -> None:
    plain = {"baselines": list(BASELINES), "policy.steps": 4}
    before, now = (_versions(tiny_config(folder, {**plain, section: o})) for o in ({}, {"weight_decay": 0.1}))
    assert {name for name in before if before[name] != now[name]} == changed
    assert before == _versions(tiny_config(folder, plain))


def test_trackers_decide_no_version(folder: Path) -> None:
    assert _versions(tiny_config(folder)) == _versions(tiny_config(folder, {"execution.report_to": ["wandb"]}))


# -------------------------------------------------------------------------------------------------------------- refused


def test_an_unknown_field_is_refused_with_the_nearest_one(folder: Path) -> None:
    assert problem(folder, "policy.trl", importance_sampling="sequence") == (
        "policy.trl.importance_sampling is no field of TRL's GRPOConfig; did you mean 'importance_sampling_level'?"
    )
    assert problem(folder, "policy.rloo_trl", loss_type="grpo").startswith(
        "policy.rloo_trl.loss_type is no field of TRL's RLOOConfig"
    )
    assert problem(folder, "dpo.trl", zzzzzz=1).endswith("DPOConfig; TRL's documentation lists them")


@pytest.mark.parametrize(
    ("section", "field", "setting"),
    [
        ("sft.trl", "num_train_epochs", "sft.epochs"),
        ("sft.trl", "max_steps", "sft.epochs"),
        ("sft.trl", "seed", "seed"),
        ("sft.trl", "report_to", "execution.report_to"),
        ("dpo.trl", "beta", "dpo.beta"),
        ("dpo.trl", "seed", "dpo.seed"),
        ("policy.trl", "beta", "policy.kl"),
        ("policy.trl", "loss_type", "policy.loss"),
        ("policy.trl", "generation_batch_size", "policy.prompts_per_step and policy.num_generations"),
        ("policy.trl", "use_cpu", "models.device"),
        ("policy.rloo_trl", "max_completion_length", "policy.max_new_tokens"),
        ("policy.rloo_trl", "hub_token", "the environment variable HF_TOKEN"),
    ],
)
def test_a_field_of_ours_is_refused_with_the_setting_to_change(
    folder: Path, section: str, field: str, setting: str
) -> None:
    assert problem(folder, section, **{field: 1}) == (
        f"{section}.{field} is decided by {setting}; take it out, and change that instead"
    )


def test_a_field_that_nothing_may_change_is_refused(folder: Path) -> None:
    said = "policy.trl.remove_unused_columns is always False here, and no setting changes it; take it out"
    assert problem(folder, "policy.trl", remove_unused_columns=True) == said


@pytest.mark.parametrize(
    ("field", "value", "takes"),
    [
        ("top_k", "many", "int"),
        ("top_k", True, "int"),
        ("top_k", 2.5, "int"),
        ("mask_truncated_completions", 1, "bool"),
        ("delta", "wide", "float | None"),
        ("delta", "nan", "float | None"),
        ("reward_weights", 1.0, "list[float] | None"),
        ("optim", 3, "OptimizerNames | str"),
    ],
)
def test_a_wrong_type_is_refused_with_what_is_expected(folder: Path, field: str, value: Any, takes: str) -> None:
    said = problem(folder, "policy.trl", **{field: value})
    assert said == f"policy.trl.{field} is {value!r}; TRL's GRPOConfig takes {takes} there"


def test_what_trl_itself_refuses_is_said_with_its_reason(folder: Path) -> None:
    said = problem(folder, "policy.trl", auto_find_batch_size=True)
    assert said.startswith("policy.trl (auto_find_batch_size): TRL's GRPOConfig refuses it: auto_find_batch_size is")
    assert "is not a valid SchedulerType" in problem(folder, "sft.trl", lr_scheduler_type="diagonal")


@pytest.mark.parametrize("section", ["policy.trl", "policy.rloo_trl"])
def test_vllm_cannot_sample_what_trains_on_a_cpu(folder: Path, section: str) -> None:
    found = problem(folder, section, use_vllm=True)
    assert found.startswith(f"{section}.use_vllm is true, but the policy trains on a CPU")
    assert "execution.sampler: vllm samples everything else" in found
    assert list(option_problems(tiny_config(folder, {section: {"use_vllm": False}}))) == []


def test_every_problem_is_said_at_once_before_a_run(folder: Path) -> None:
    wrong: dict[str, Any] = {section: {"nonsense": 1, "learning_rate": 1} for section in SECTIONS}
    found = find_problems(Project(tiny_config(folder, {**wrong, "policy.trl.epsilon_high": "0.3"})))
    assert [text.partition(".nonsense")[0] for text in found] == list(SECTIONS)
    assert all("learning_rate is decided by " in text for text in found)


def test_a_stage_refuses_before_it_loads_a_model(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sft", "grpo"):
        monkeypatch.setattr(f"drirl_core.policy.{module}.load_policy", lambda *_: pytest.fail("weights were loaded"))
    context = contexts.make("refused", {"sft.trl.bata": 1, "policy.trl.bata": 1})
    with pytest.raises(ConfigError, match=r"^sft\.trl\.bata is no field"):
        build_sft_checkpoint(context)
    with pytest.raises(ConfigError, match=r"^policy\.trl\.bata is no field of TRL's GRPOConfig; did you mean 'beta'\?"):
        build_policy_checkpoint(context)


@pytest.mark.long
def test_options_are_found_without_anything_heavy() -> None:
    """The Dagster process reads them to see whether a process must look at them."""
    code = "import sys, drirl_core.policy.options, pipeline.running.looking; print('torch' in sys.modules, 'trl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# ------------------------------------------------------------------------------------------------------------ passed on


def test_options_reach_the_trainer(contexts: Any, no_curves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `top_k`, TRL's own sampler draws, because ours on a CPU knows the temperature alone."""
    seen: list[Any] = []

    class Stop(Exception):
        pass

    def run(trainer: Any, *_: Any) -> None:
        seen.append(trainer)
        raise Stop

    monkeypatch.setattr("drirl_core.policy.grpo.run", run)
    given = {"policy.trl": {"top_k": 1, "epsilon_high": "0.28", "lr_scheduler_type": "constant"}}
    for options in ({}, given):
        with pytest.raises(Stop):
            build_policy_checkpoint(contexts.make("passed", options))
    plain, changed = seen
    assert (plain.args.top_k, plain.args.epsilon_high) == (0, None)
    assert (changed.args.top_k, changed.args.epsilon_high, changed.args.lr_scheduler_type) == (1, 0.28, "constant")
    assert (plain._exact_sampling, changed._exact_sampling) == (True, False)
    assert (changed.args.beta, changed.args.steps_per_generation) == (0.02, 1)


@pytest.mark.long
def test_a_training_with_options_ends_elsewhere(contexts: Any, no_curves: None) -> None:
    """SGD takes other steps than AdamW from the same gradients, so the two trainings have no weights in common."""
    from safetensors.torch import load_file

    found = {}
    for name, options in {"plain": {}, "sgd": {"optim": "sgd", "lr_scheduler_type": "constant"}}.items():
        context = contexts.make(name, {"sft.trl": options, "sft.learning_rate": 1e-2, "sft.epochs": 1})
        build_sft_checkpoint(context)
        found[name] = load_file(context.out / "model.safetensors")
    trained = [key for key in found["plain"] if key.endswith("q_proj.weight")]
    assert len(trained) == 2
    assert all(not (found["plain"][key] == found["sgd"][key]).all() for key in trained)
