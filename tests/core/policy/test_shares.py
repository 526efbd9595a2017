"""How a batch is shared among processes, by hand, and which settings cannot be shared."""

from __future__ import annotations

import importlib.metadata
import itertools
from typing import Any

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import SequentialSampler

from drirl_core.config import ConfigError
from drirl_core.config.execution import ExecutionConfig, GpuConfig
from drirl_core.graph import processes
from drirl_core.graph.record import Batch
from drirl_core.models import loading
from drirl_core.models.packages import package_problems
from drirl_core.policy.options import option_problems
from drirl_core.policy.shares import batch_of_rollouts, batch_of_sft, micro_batch
from drirl_core.policy.together import SharedOrder, spread
from drirl_core.project import Project
from drirl_core.testing import RecordingReporter


@pytest.mark.parametrize(
    ("rows", "unit", "most", "count"),
    [
        (16, 1, 4, 4),
        (16, 1, 3, 2),
        (16, 2, 16, 8),
        (6, 2, 4, 3),
        (7, 1, 4, 1),
        (5, 2, 2, 1),
        (8, 1, 1, 1),
        (8, 1, 0, 1),
    ],
)
def test_the_largest_number_of_processes_that_divides_a_batch(rows: int, unit: int, most: int, count: int) -> None:
    assert Batch(rows, unit, "").processes(most) == count


def test_the_last_rows_are_dealt_out_and_filled_up() -> None:
    """Five rows and three blanks for two processes of four; with pairs, two and a single row."""
    assert spread([10, 11, 12, 13, 14], [90, 91, 92], (2, 4), 1) == [10, 12, 14, 90, 11, 13, 91, 92]
    assert spread([10, 11, 12, 13, 14], [90, 91, 92], (2, 4), 2) == [10, 11, 14, 90, 12, 13, 91, 92]
    assert spread([10], [90, 91, 92], (2, 2), 1) == [10, 90, 91, 92]


def test_the_order_is_that_of_one_process_and_blank_rows_come_last() -> None:
    real = range(7)
    order = SharedOrder(SequentialSampler(real), 7, 8, (2, 2), 1)
    assert (len(order), list(order)) == (8, [0, 1, 2, 3, 4, 6, 5, 7])
    shuffled = SharedOrder(SeedableRandomSampler(real, data_seed=3), 7, 8, (2, 2), 1)
    for epoch in (0, 2):
        alone = SeedableRandomSampler(real, data_seed=3)
        alone.set_epoch(epoch)
        shuffled.set_epoch(epoch)
        expected, found = list(alone), list(shuffled)
        assert found[:4] == expected[:4]
        assert (sorted(found[4:7] + found[7:]), found[6]) == (sorted([*expected[4:], 7]), expected[5])
    assert list(SharedOrder(SequentialSampler(real), 7, 7, (2, 2), 1)) == list(real)  # where the last batch is dropped


def test_a_process_computes_the_most_that_divides_its_part(contexts: Any) -> None:
    settings = contexts.config({"policy.prompts_per_step": 6, "policy.num_generations": 4, "policy.micro_batch": 8})
    assert batch_of_rollouts(settings) == (24, 1, "policy.prompts_per_step * policy.num_generations")
    assert [micro_batch(settings.policy, 24 // count) for count in (1, 2, 3, 4)] == [8, 6, 8, 6]
    assert micro_batch(contexts.config().policy, 4) == 4


def test_twins_stay_in_one_process(contexts: Any) -> None:
    assert batch_of_sft(contexts.config({"sft.contrast": 1.0})) == (8, 2, "sft.batch_size")
    assert batch_of_sft(contexts.config()).unit == 1


def test_the_settings_decide_how_many_processes() -> None:
    assert [ExecutionConfig().most_processes(gpu) for gpu in (True, False)] == [1, 1]
    two = ExecutionConfig(gpu=GpuConfig(count=2))
    assert [two.most_processes(gpu) for gpu in (True, False)] == [2, 1]
    assert ExecutionConfig(gpu=GpuConfig(count=0)).most_processes(True) == 1
    assert ExecutionConfig(processes=3).most_processes(False) == 3
    with pytest.raises(ConfigError, match=r"execution\.processes is -1"):
        ExecutionConfig(processes=-1)


def _count(contexts: Any, asset: str, overrides: dict[str, Any]) -> tuple[int, list[str]]:
    project, reporter = (
        Project(contexts.config({"baselines": ["irft"], "policy.start": "sft", **overrides})),
        RecordingReporter(),
    )
    return processes.count_for(project.graph.nodes[asset], project.config, reporter), reporter.lines


def test_an_asset_is_built_in_as_many_processes_as_share_its_batch(contexts: Any) -> None:
    assert _count(contexts, "policy_checkpoint", {}) == (1, [])
    assert _count(contexts, "policy_checkpoint", {"execution.processes": 2}) == (2, [])
    count, lines = _count(contexts, "sft_checkpoint", {"execution.processes": 3, "sft.contrast": 1.0})
    assert (count, lines) == (
        2,
        [
            "sft_checkpoint trains in 2 of 3 processes: sft.batch_size is 8 in units of 2, which does not divide "
            "among more evenly"
        ],
    )
    for asset in ("irft_checkpoint", "reward_model_insult", "prompt_pool"):
        assert _count(contexts, asset, {"execution.processes": 2}) == (1, [])


def test_a_transformers_that_cannot_divide_weights_is_refused(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    divided = {"execution.sharding": "fsdp2", "execution.processes": 2}
    for version, said in (("5.17.0", 1), ("5.23.0", 0), ("6.0.0.dev0", 0)):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, version=version: version)
        assert len(list(package_problems(contexts.config(divided)))) == said
        assert list(package_problems(contexts.config({}))) == []
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "5.17.0")
    with pytest.raises(ConfigError, match=r"needs transformers 5\.23 or newer, not 5\.17\.0; install a newer one"):
        _count(contexts, "policy_checkpoint", divided)


def test_weights_are_divided_among_two_or_more(contexts: Any) -> None:
    divided = {"execution.sharding": "fsdp2"}
    with pytest.raises(ConfigError, match=r"but one process trains \(execution\.processes 0, .*set execution\.process"):
        _count(contexts, "policy_checkpoint", divided)
    assert _count(contexts, "policy_checkpoint", {**divided, "execution.processes": 2}) == (2, [])
    assert _count(contexts, "prompt_pool", divided) == (1, [])
    alone = {**divided, "execution.processes": 2, "sft.batch_size": 7}
    with pytest.raises(ConfigError, match=r"sft\.batch_size is 7, which 2 processes cannot share, nor fewer"):
        _count(contexts, "sft_checkpoint", alone)
    assert [line.partition(" ")[0] for line in option_problems(contexts.config(divided))] == ["execution.sharding"]
    wrong = {"policy.trl": {"use_transformers_paged": True}, "dpo.trl": {"precompute_ref_log_probs": True}}
    said = option_problems(contexts.config({**divided, "execution.processes": 2, **wrong}))
    assert [line.partition(",")[0] for line in said] == [
        "dpo.trl.precompute_ref_log_probs hashes all weights",
        "policy.trl.use_transformers_paged lets each process run the policy as often as its own rows need",
    ]


def test_only_frozen_weights_are_divided(contexts: Any) -> None:
    divided = {"execution.sharding": "fsdp2", "execution.processes": 2}
    with pytest.raises(
        ConfigError, match=r"fsdp2', but sft\.lora\.rank is 0, .*set sft\.lora\.rank to a positive rank"
    ):
        contexts.config({**divided, "sft.lora.rank": 0})
    with pytest.raises(ConfigError, match=r"four bits cannot be divided among processes; set one of the two to none"):
        contexts.config({**divided, "models.quantization": "4bit"})
    contexts.config({**divided, "rewards.backbone": "adapter"})


def test_each_process_needs_a_gpu(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "device_of", lambda models: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = {"models.device": "auto"}
    assert _count(contexts, "policy_checkpoint", {**gpu, "execution.gpu": {"count": 2}}) == (2, [])
    with pytest.raises(ConfigError, match=r"ask for 4 processes .* sees 2; set execution\.processes to 2 at most"):
        _count(contexts, "policy_checkpoint", {**gpu, "execution.gpu": {"count": 4}})


def test_settings_that_average_within_a_process_are_refused(contexts: Any) -> None:
    wrong = {
        "policy.loss": "bnpo",
        "policy.trl": {"entropy_coef": 0.01},
        "sft.trl": {"auto_find_batch_size": True},
        "dpo.trl": {"loss_type": ["sigmoid", "sft"]},
    }
    assert not [line for line in option_problems(contexts.config(wrong)) if "processes" in line]
    said = [
        line for line in option_problems(contexts.config({**wrong, "execution.processes": 2})) if "processes" in line
    ]
    assert [line.partition(" ")[0] for line in said] == [
        "policy.loss",
        "sft.trl.auto_find_batch_size",
        "policy.trl.entropy_coef",
        "dpo.trl.loss_type",
    ]
    assert all("execution.processes to 1" in line and "number would decide the result" in line for line in said)
    fine = contexts.config({"policy.trl": {"entropy_coef": 0.0, "top_k": 5}, "execution.processes": 2})
    assert list(option_problems(fine)) == []


def test_a_row_is_sampled_the_same_by_any_number_of_processes(tiny_policy: Any, tiny_models: Any) -> None:
    """Each process draws the numbers of all rows; alone it would sample the rows of the first one."""
    from drirl_core.models.loading import load_policy
    from drirl_core.models.sampling import exact_cpu_sampling

    policy = load_policy(tiny_policy, tiny_models)
    batch = policy.tokenizer(["same prompt"] * 4, return_tensors="pt", add_special_tokens=False)
    how = type(policy.model.generation_config)(
        do_sample=True, max_new_tokens=6, pad_token_id=policy.tokenizer.pad_token_id
    )

    def rows(place: tuple[int, int]) -> list[list[int]]:
        part = {name: value[: 4 // place[1]] for name, value in batch.items()}
        with exact_cpu_sampling(policy.model, 1.0, torch.Generator().manual_seed(5), 6, place), torch.no_grad():
            return policy.model.generate(**part, generation_config=how).tolist()

    alone, shared = rows((0, 1)), [rows((0, 2)), rows((1, 2))]
    assert list(itertools.chain(*shared)) == alone
    assert shared[0] != shared[1]
