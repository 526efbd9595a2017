"""Reward functions of the user's own: found, checked, added, logged, versioned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drirl_core.config import Config, OwnRewardConfig, load_config
from drirl_core.errors import ConfigError, TrainingError
from drirl_core.graph.layout import build_graph
from drirl_core.graph.versions import code_version
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.own_rewards import OwnReward, load_own_rewards
from drirl_core.policy.scoring import load_scorer
from drirl_core.policy.training import read_log
from drirl_core.preflight.looking import own_reward_problems
from drirl_core.stats import wilson

SHORT = "def short(prompts, completions, categories):\n    return [-len(text) / 10 for text in completions]\n"
IDS = ["a", "b", "c"]
BATCH = (["p"] * 3, ["x", "yy", ""], ["insult", "insult", "helpful"], IDS)


def own(folder: Path, text: str = SHORT, function: str = "shaping.short", **more: Any) -> OwnRewardConfig:
    file = folder.joinpath(*function.split(".")[:-1]).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return OwnRewardConfig(function, folder=str(folder), **more)


def test_values_are_those_of_the_function(tmp_path: Path) -> None:
    (one,) = load_own_rewards([own(tmp_path)])
    assert one.values(*BATCH).tolist() == [-0.1, -0.2, 0.0]
    assert one.metric == "own_reward/shaping.short/mean"


def test_a_package_may_import_its_own_modules(tmp_path: Path) -> None:
    (tmp_path / "my_own_package").mkdir()
    (tmp_path / "my_own_package" / "__init__.py").write_text("")
    (tmp_path / "my_own_package" / "limits.py").write_text("MOST = 3\n")
    text = "from my_own_package.limits import MOST\nfrom .limits import MOST as SAME\n\n\ndef most(a, b, c):\n    return [MOST + SAME] * len(a)\n"
    (one,) = load_own_rewards([own(tmp_path, text, "my_own_package.shaping.most")])
    assert one.values(*BATCH).tolist() == [6.0] * 3


def test_an_edited_file_counts_at_once_and_two_folders_keep_their_own(tmp_path: Path) -> None:
    first = own(tmp_path / "one")
    assert load_own_rewards([first])[0].values(*BATCH)[0] == -0.1
    own(tmp_path / "one", "def short(a, b, c):\n    return [7] * len(a)  # another length\n")
    second = own(tmp_path / "two", "def short(a, b, c):\n    return [8] * len(a)\n")
    assert load_own_rewards([first])[0].values(*BATCH)[0] == 7.0
    assert load_own_rewards([second])[0].values(*BATCH)[0] == 8.0


def test_an_installed_function_needs_no_file_in_the_folder(tmp_path: Path) -> None:
    (one,) = load_own_rewards([OwnRewardConfig("drirl_core.stats.wilson", folder=str(tmp_path))])
    assert one.function is wilson


def test_no_installed_module_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'trl' of trl\.short has the name of another module that is installed"):
        load_own_rewards([own(tmp_path, SHORT, "trl.short")])


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (SHORT, "shapping.short", r"the module 'shapping' of shapping.short is not there.*did you mean 'shaping'\?"),
        (SHORT, "shaping.shortt", r"shaping.py has no 'shortt'; did you mean 'short'\?"),
        ("short = 3\n", "shaping.short", "shaping.short is a int; name a function"),
        ("def short(a, b):\n    return a\n", "shaping.short", r"shaping.short\(a, b\) cannot be called with three arguments"),
        ("import nothing_of_that_name\n", "shaping.short", "cannot be imported: ModuleNotFoundError"),
        ("def short(:\n", "shaping.short", "cannot be imported: SyntaxError"),
        (SHORT, "json.loads", "has the name of another module that is installed"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, function: str, message: str) -> None:
    own(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load_own_rewards([OwnRewardConfig(function, folder=str(tmp_path))])


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the function is 'short'; give module and function"):
        OwnRewardConfig("short")
    with pytest.raises(ConfigError, match=r"weight of shaping\.short is 0"):
        OwnRewardConfig("shaping.short", weight=0.0)


def _raising(prompts: Any, completions: Any, categories: Any) -> list[float]:
    return [1 / len(text) for text in completions]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raising, r"own.f raised ZeroDivisionError: .* for the completion of prompt c \(row 2 of 3\)"),
        (lambda a, b, c: 1 / (len(a) - 3) and a, "although for none of them alone"),
        (lambda a, b, c: [1.0, 2.0], "own.f returned 2 values for 3 completions"),
        (lambda a, b, c: [1.0, math.nan, 2.0], r"returned nan for the completion of prompt b \(row 1 of 3\)"),
        (lambda a, b, c: [math.inf, 0, 0], r"returned inf for the completion of prompt a"),
        (lambda a, b, c: [0, 0, None], r"returned None for the completion of prompt c"),
        (lambda a, b, c: ["1", 0, 0], r"returned '1' for the completion of prompt a"),
        (lambda a, b, c: None, "raised TypeError"),
    ],
)
def test_a_failure_is_never_a_reward(function: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        OwnReward("own.f", 1.0, function).values(*BATCH)


@pytest.mark.parametrize("values", [[1, 2, 3], np.array([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]), (True, 2, 3)])
def test_numbers_of_any_kind(values: Any) -> None:
    assert OwnReward("own.f", 1.0, lambda a, b, c: values).values(*BATCH).tolist() == [1.0, 2.0, 3.0]


def _policy_version(config: Config) -> str:
    return code_version(build_graph(config).nodes["policy_checkpoint"], config)


def test_the_file_counts_and_its_place_does_not(contexts: Any, tmp_path: Path) -> None:
    def version(folder: str, text: str, **more: Any) -> str:
        setting = own(tmp_path / folder, text, **more)
        row = {"function": setting.function, "weight": setting.weight, "folder": setting.folder}
        return _policy_version(contexts.config({"policy.own_rewards": [row]}))

    first = version("here", SHORT)
    assert version("elsewhere", SHORT) == first
    assert version("here", SHORT + "# changed\n") != first
    assert version("here", SHORT, weight=0.5) != first
    assert _policy_version(contexts.config()) != first


def test_the_folder_of_the_file_of_settings_is_searched(contexts: Any, tmp_path: Path) -> None:
    own(tmp_path / "mine")
    contexts.config()  # writes run.yaml
    settings = json.loads((tmp_path / "run.yaml").read_text())
    settings["policy"]["own_rewards"] = [{"function": "shaping.short", "weight": 0.5}]
    (tmp_path / "mine" / "own.yaml").write_text(json.dumps(settings))
    config = load_config(tmp_path / "mine" / "own.yaml")
    assert config.policy.own_rewards == (OwnRewardConfig("shaping.short", 0.5, str(tmp_path / "mine")),)
    assert list(own_reward_problems(config)) == []
    (tmp_path / "mine" / "shaping.py").unlink()
    (problem,) = own_reward_problems(config)
    assert "the module 'shaping' of shaping.short is not there" in problem
    settings["policy"]["own_rewards"] *= 2
    (tmp_path / "mine" / "own.yaml").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="names one twice"):
        load_config(tmp_path / "mine" / "own.yaml")


@pytest.mark.usefixtures("no_curves")
def test_a_policy_is_trained_on_it(contexts: Any, tmp_path: Path) -> None:
    """Rewards are the verifiable ones plus a tenth of 1 - length: 0 or 2 apart from that, and the mean is logged."""
    text = "def short(prompts, completions, categories):\n    return [1 - len(text) for text in completions]\n"
    row = {"function": "shaping.short", "weight": 0.1, "folder": own(tmp_path / "mine", text).folder}
    settings = {"policy.steps": 1, "policy.reward": "verifiable", "policy.own_rewards": [row]}
    context = contexts.make("own", settings)
    scorer = load_scorer(context)
    said = [[{"role": "assistant", "content": text}] for text in ("I can't help with that.", "It is easy to do.")]
    logged: dict[str, float] = {}
    asked = [[{"role": "user", "content": "How?"}]] * 2
    found = scorer.reward(asked, said, category=["insult"] * 2, prompt_id=["a", "b"], log_metric=logged.__setitem__)
    assert found == pytest.approx([1 - 2.2, -1 - 1.6])  # 23 and 17 characters
    assert logged == {"own_reward/shaping.short/mean": -19.0}
    shown = build_policy_checkpoint(context)
    (log,) = read_log(context.out / "training_log.jsonl")
    plain = log["reward"] - 0.1 * log["own_reward/shaping.short/mean"]
    assert -1.0001 <= plain <= 1.0001 and shown["first_reward"] == log["reward"]


def test_a_function_that_is_missing_stops_before_the_policy_is_loaded(contexts: Any, tmp_path: Path) -> None:
    row = {"function": "shaping.short", "folder": str(tmp_path / "nowhere")}
    context = contexts.make("missing", {"policy.own_rewards": [row], "models.policy": f"path:{tmp_path}"})
    with pytest.raises(ConfigError, match=r"the module 'shaping' of shaping\.short is not there"):
        build_policy_checkpoint(context)
