"""vLLM as the sampler: what it is asked for, which rows are shared with transformers, and what is said when it fails.

A package that answers like vLLM stands in its place, in a process of its own as the real one; test_vllm_sampling.py
runs the real one where it is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from drirl_core.config import ExecutionConfig, ModelsConfig, VllmConfig
from drirl_core.errors import ConfigError, DataError, ModelError, TrainingError
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling import Completion, SamplingSettings, close_engine, sample, vllm_problems
from drirl_core.models.sampling.vllm_engine import WORKER, engine_arguments, sampling_parameters
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter

GREEDY = SamplingSettings(max_new_tokens=4, temperature=0.0, batch_size=8)
DRAWN = dataclasses.replace(GREEDY, temperature=0.5)
PACKAGE = '''
import os, pathlib, subprocess, sys, types
print("a library prints this to the standard output")
__version__ = "0.1.2"
class SamplingParams:
    def __init__(self, **fields):
        self.__dict__.update(fields)
class LLM:
    """Greedy, it writes "ab" and ends; drawn, it goes on with the letter that the seed chooses."""
    def __init__(self, **arguments):
        if arguments["dtype"] == "float16":
            raise ValueError("that type is not supported")
        if arguments.get("max_model_len") == 7:
            sys.exit(3)
        self.a, self.log_prob = @LETTER@, float("nan") if arguments["tensor_parallel_size"] == 2 else -1.0
        if "NOTE_CHILD" in os.environ:  # as vLLM does, it computes in a process that outlives its parent
            child = subprocess.Popen(["sleep", "600"])
            pathlib.Path(os.environ["NOTE_CHILD"]).write_text(str(child.pid))
        self.model_config = types.SimpleNamespace(max_model_len=arguments.get("max_model_len", 512))
    def generate(self, prompts, parameters, use_tqdm):
        if any(one.max_tokens == 5 for one in parameters):
            raise RuntimeError("the cache is full")
        return [types.SimpleNamespace(outputs=[self.one(each)]) for each in parameters]
    def one(self, asked):
        greedy = [self.a, self.a + 1, asked.stop_token_ids[0]]
        tokens = [self.a + asked.seed % 26] * asked.max_tokens if asked.temperature else greedy
        return types.SimpleNamespace(token_ids=tuple(tokens), cumulative_logprob=self.log_prob)
'''
PLATFORMS = """
class current_platform:
    device_type = "@DEVICE@"
    def is_cpu():
        return True
"""


@pytest.fixture(autouse=True)
def no_engine_is_left() -> Iterator[None]:
    yield
    close_engine()


@pytest.fixture
def python(tmp_path: Path, tiny_policy: Path, tiny_models: ModelsConfig) -> Any:
    """Return a function that writes a Python in whose environment the package is."""
    letter = load_policy(tiny_policy, tiny_models).tokenizer("a", add_special_tokens=False)["input_ids"][0]

    def write(device: str = "cpu") -> str:
        package = tmp_path / device / "vllm"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(PACKAGE.replace("@LETTER@", str(letter)))
        (package / "platforms.py").write_text(PLATFORMS.replace("@DEVICE@", device))
        program = tmp_path / device / "python"
        program.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return write


@pytest.fixture
def draw(tiny_policy: Path, tiny_models: ModelsConfig, store: ArtifactStore) -> Any:
    """Return a function that samples into one store, and what it reports."""
    reporter = RecordingReporter()

    def go(
        how: SamplingSettings, vllm: VllmConfig | None, prompts: tuple[str, ...] = ("Hi", "What?"), **more: Any
    ) -> Any:
        models = dataclasses.replace(tiny_models, **more)
        return sample(tiny_policy, prompts, 1, how, models=models, store=store, reporter=reporter, vllm=vllm)

    go.reporter = reporter
    return go


# ----------------------------------------------------------------------------------------------------------- translation


def test_a_drawn_row_has_its_own_seed_and_nothing_is_cut_off() -> None:
    how = SamplingSettings(max_new_tokens=24, temperature=0.7, batch_size=64)

    asked = sampling_parameters(how, "0000000000000ff" + "3" * 49, [2, 7])

    assert asked == {
        "temperature": 0.7, "seed": 255, "max_tokens": 24, "stop_token_ids": [2, 7], "top_p": 1.0, "top_k": 0,
        "min_p": 0.0, "repetition_penalty": 1.0, "detokenize": False, "logprobs": 0,
    }  # fmt: skip


def test_a_greedy_row_has_no_seed() -> None:
    asked = sampling_parameters(GREEDY, "f" * 64, [2])

    assert (asked["temperature"], "seed" in asked, asked["max_tokens"]) == (0.0, False, 4)


def test_the_engine_gets_type_memory_and_length(tmp_path: Path, tiny_models: ModelsConfig) -> None:
    given = VllmConfig(gpu_memory=0.3, cpu_cache_gib=0.5, max_model_len=100, gpus=2, compile=False)

    asked = engine_arguments(tmp_path, dataclasses.replace(tiny_models, dtype="bfloat16"), given)

    assert asked["on_cpu"] == {"kv_cache_memory_bytes": 2**29}
    assert asked["on_gpu"] == {"gpu_memory_utilization": 0.3}
    expected = {
        "model": str(tmp_path), "dtype": "bfloat16", "max_model_len": 100, "tensor_parallel_size": 2,
        "enforce_eager": True, "trust_remote_code": False, "generation_config": "vllm", "load_format": "safetensors",
    }  # fmt: skip
    assert expected.items() <= asked["engine"].items()
    assert "max_model_len" not in engine_arguments(tmp_path, tiny_models, VllmConfig())["engine"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu_memory", 0.0), ("gpu_memory", 1.0), ("cpu_cache_gib", 0.0), ("max_model_len", -1), ("gpus", 0)],
)
def test_bad_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"execution\.vllm\.{field} is {value}"):
        VllmConfig(**{field: value})


# ------------------------------------------------------------------------------------------------------------------ rows


def test_completions_are_read_as_those_of_transformers(draw: Any, python: Any) -> None:
    vllm = VllmConfig(python=python())

    assert draw(GREEDY, vllm) == [[Completion("ab", 3, True)]] * 2
    assert [completion.finished for (completion,) in draw(DRAWN, vllm)] == [False, False]
    assert draw.reporter.lines.count("vLLM: the engine starts") == 1  # both calls share it
    assert "vLLM 0.1.2 samples on cpu" in draw.reporter.lines


def test_greedy_rows_are_shared_with_transformers_and_drawn_ones_are_not(draw: Any, python: Any) -> None:
    vllm = VllmConfig(python=python())
    greedy, drawn = draw(GREEDY, None), draw(DRAWN, None)

    assert draw(GREEDY, vllm) == greedy
    assert not any("engine" in line for line in draw.reporter.lines)
    other = draw(DRAWN, vllm)
    assert other != drawn
    assert (draw(DRAWN, None), draw(DRAWN, vllm)) == (drawn, other)


def test_a_row_does_not_depend_on_the_others(draw: Any, python: Any, tmp_path: Path) -> None:
    vllm = VllmConfig(python=python())
    (alone,) = draw(DRAWN, vllm, ("What?",))

    assert draw(DRAWN, vllm, ("Hi", "What?", "Why?"))[1] == alone
    assert len({text for ((text, _, _),) in map(_plain, draw(DRAWN, vllm, tuple("abcdefgh")))}) > 3  # seeds differ


def _plain(row: list[Completion]) -> list[tuple[str, int, bool]]:
    return [dataclasses.astuple(completion) for completion in row]


def test_a_policy_that_is_loaded_is_sampled_where_it_is(
    tiny_policy: Path, tiny_models: ModelsConfig, store: ArtifactStore
) -> None:
    loaded, reporter = load_policy(tiny_policy, tiny_models), RecordingReporter()
    how = {"models": tiny_models, "store": store, "reporter": reporter}

    with_engine = sample(loaded, ["Hi"], 1, DRAWN, vllm=VllmConfig(python="/nowhere/python"), **how)

    assert sample(tiny_policy, ["Hi"], 1, DRAWN, **how) == with_engine


def test_a_prompt_without_room_is_refused(draw: Any, python: Any) -> None:
    with pytest.raises(DataError, match="more than the 20 that the model can read"):
        draw(GREEDY, VllmConfig(python=python(), max_model_len=20), ("a prompt of more than twenty bytes",))


# -------------------------------------------------------------------------------------------------------------- failures


def test_without_the_package_nothing_loads(draw: Any, tmp_path: Path) -> None:
    bare = ExecutionConfig(sampler="vllm", vllm=VllmConfig(python=sys.executable))
    if not list(vllm_problems(ExecutionConfig(sampler="vllm"))):
        pytest.skip("vLLM is installed here")

    (problem,) = vllm_problems(bare)
    assert "pip install 'drirl[vllm]'" in problem
    assert "set execution.sampler to transformers" in problem
    with pytest.raises(ConfigError, match="has no package vllm"):
        draw(GREEDY, bare.vllm)
    assert list(vllm_problems(ExecutionConfig(vllm=bare.vllm))) == []  # transformers samples


def test_a_python_that_is_none_is_named() -> None:
    (problem,) = vllm_problems(ExecutionConfig(sampler="vllm", vllm=VllmConfig(python="/nowhere/python")))

    assert "execution.vllm.python is '/nowhere/python', which is no program" in problem


def test_what_the_engine_says_is_passed_on(draw: Any, python: Any) -> None:
    vllm = VllmConfig(python=python())

    with pytest.raises(ModelError, match=r"cannot load .*ValueError: that type is not supported") as raised:
        draw(GREEDY, vllm, dtype="float16")
    assert "Traceback" in str(raised.value)
    assert "a library prints this" in str(raised.value)
    with pytest.raises(ModelError, match="ended with code 3 before it answered"):
        draw(GREEDY, dataclasses.replace(vllm, max_model_len=7))
    with pytest.raises(ModelError, match="failed while it sampled: RuntimeError: the cache is full"):
        draw(dataclasses.replace(GREEDY, max_new_tokens=5), vllm)
    assert draw(GREEDY, vllm) == [[Completion("ab", 3, True)]] * 2  # an engine that failed is not used again


def test_logits_that_are_no_numbers_stop_it(draw: Any, python: Any) -> None:
    with pytest.raises(TrainingError, match="logits are not finite"):
        draw(GREEDY, VllmConfig(python=python(), gpus=2))


def test_an_engine_for_another_device_is_refused(draw: Any, python: Any) -> None:
    with pytest.raises(ConfigError, match="models run on cpu, but the vLLM that is installed samples on cuda"):
        draw(GREEDY, VllmConfig(python=python("cuda")))


def test_no_process_of_the_engine_outlives_it(
    draw: Any, python: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "child"
    monkeypatch.setenv("NOTE_CHILD", str(note))
    draw(GREEDY, VllmConfig(python=python()))
    child = psutil.Process(int(note.read_text()))
    assert child.is_running()

    close_engine()

    assert _ended(child)


def test_the_worker_ends_with_the_process_that_asked(python: Any, tmp_path: Path) -> None:
    """A step that was killed closes the pipe, and says nothing."""
    note, arguments = tmp_path / "child", engine_arguments(tmp_path, ModelsConfig("path:p", "path:e"), VllmConfig())
    worker = subprocess.Popen(
        [python(), "-P", str(WORKER)],
        env={**os.environ, "NOTE_CHILD": str(note)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps(arguments) + "\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline()) == {"ready": {"version": "0.1.2", "device": "cpu", "context": 512}}
    child = psutil.Process(int(note.read_text()))

    worker.stdin.close()

    assert worker.wait(60) == 0
    assert _ended(child)
    worker.stdout.close()


def _ended(process: psutil.Process) -> bool:
    """Whether a process is gone, or only waits to be collected by a parent that is."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        process.wait(30)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
