"""TRL's defaults that decide results and that we do not set: docs/how-to/trl-options.md lists them, and must be right.

A failure after an upgrade of TRL means that results made before and after it differ in more than their versions say:
note the change in the changelog, and set the field to its former value where earlier results are to be compared with.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import trl

from drirl_core.config import DpoConfig, PolicyConfig, SftConfig
from drirl_core.policy.arguments import Ours
from drirl_core.policy.dpo import dpo_arguments
from drirl_core.policy.grpo import grpo_arguments, rloo_arguments
from drirl_core.policy.sft import sft_arguments
from drirl_core.policy.tracking import Tracking
from drirl_core.policy.training import common_arguments

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "trl-options.md"
ROWS = re.findall(r"^\| `(\w+)\.(\w+)` \| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
MATTER = {
    "use_bias_correction_kl",
    "importance_sampling_level",
    "mask_truncated_completions",
    "epsilon_high",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "optim",
}


def _default(cls: str, name: str) -> Any:
    field = next(field for field in dataclasses.fields(getattr(trl, cls)) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _common() -> dict[str, Ours]:
    return common_arguments(0, Path("scratch"), "cpu", Tracking())


def _made() -> dict[str, Any]:
    common = _common()
    return {
        "GRPOConfig": grpo_arguments(PolicyConfig(), common),
        "RLOOConfig": rloo_arguments(PolicyConfig(), common),
        "DPOConfig": dpo_arguments(DpoConfig(), 64, 256, common),
        "SFTConfig": sft_arguments(SftConfig(), 64, 256, common),
    }


def test_the_table_is_there() -> None:
    assert len(ROWS) > 20
    assert {name for cls, name, _ in ROWS if cls == "GRPOConfig"} >= MATTER


@pytest.mark.parametrize(("cls", "name", "default"), ROWS)
def test_a_default_of_trl_is_as_documented_and_reaches_the_trainer(cls: str, name: str, default: str) -> None:
    assert _default(cls, name) == ast.literal_eval(default)
    assert getattr(_made()[cls], name) == ast.literal_eval(default)  # none of our functions sets it to something else


def test_trackers_reach_trl() -> None:
    tracking = Tracking(("tensorboard", "mlflow"), "demo/policy_checkpoint")
    made = grpo_arguments(PolicyConfig(), common_arguments(0, Path("scratch"), "cpu", tracking))
    assert (made.report_to, made.run_name) == (["tensorboard", "mlflow"], "demo/policy_checkpoint")
    assert (_made()["SFTConfig"].report_to, _made()["SFTConfig"].run_name) == ([], None)


def test_what_each_generation_holds_is_as_trl_would_choose_it() -> None:
    """We name the steps per generation to own the field; TRL's own choice is the number of accumulated batches."""
    how = PolicyConfig(prompts_per_step=6, num_generations=4, micro_batch=8)
    made = grpo_arguments(how, _common())
    values = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.init and field.name not in ("steps_per_generation", "generation_batch_size")
    }
    stock = trl.GRPOConfig(**values)
    assert (made.steps_per_generation, made.generation_batch_size) == (3, 24)
    assert (stock.steps_per_generation, stock.generation_batch_size) == (3, 24)
