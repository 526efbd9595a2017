"""Sampling by vLLM: the same completions as `decode` in distribution, many rows at once, in a process of its own.

The prompt is rendered and turned into tokens here, and tokens are turned into text here, exactly as for transformers;
vLLM computes and draws the tokens alone. Greedy completions differ only where rounding does. Drawn ones are another
draw from the same distribution, because vLLM makes its random numbers in its own way.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from drirl_core.config import ExecutionConfig, ModelsConfig, VllmConfig
from drirl_core.errors import ConfigError, ModelError, TrainingError
from drirl_core.models.generation import end_tokens, inherited_settings
from drirl_core.models.loading import device_of, dtype_of, kept_tokenizer
from drirl_core.models.packages import vllm_problems
from drirl_core.models.references import resolve
from drirl_core.models.sampling.decode import Completion, SamplingSettings, completion_of
from drirl_core.reporting import Reporter

ROWS = 512
"""Rows sent to the engine at once; it works on as many as its memory holds, and those that are done are kept."""
WORKER = Path(__file__).with_name("vllm_worker.py")
"""The file that the engine's Python runs."""
_OF_TRAINING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of processes that train together: the engine of one of them is alone."""
_GIB = 2**30
_GRACE_S = 20.0
_LAST_LINES = 60
"""What vLLM says last is often that the cause is above."""


def sampling_parameters(settings: SamplingSettings, seed: str, ends: Sequence[int]) -> dict[str, Any]:
    """Translate our settings of one row into the fields of vLLM's `SamplingParams`.

    Nothing is left for a model's directory to fill in, and nothing of the distribution is cut off.

    Args:
        settings: how to sample; `batch_size` is the engine's own affair.
        seed: hexadecimal content key; its random numbers come from it.
        ends: ids of the tokens that end a completion.
    """
    drawn = {"temperature": settings.temperature, "seed": int(seed[:15], 16)} if settings.temperature > 0 else {}
    return {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": settings.max_new_tokens,
        "stop_token_ids": list(ends),
        "detokenize": False,
        "logprobs": 0,  # that of the token itself, which is not a number where the weights are damaged
        **drawn,
    }


def engine_arguments(folder: Path, models: ModelsConfig, vllm: VllmConfig) -> dict[str, dict[str, Any]]:
    """Translate our settings into the arguments of vLLM's `LLM`.

    Args:
        folder: directory of the model.
        models: type of the weights.
        vllm: memory and length.

    Returns:
        Arguments under `engine`, and those of one kind of machine under `on_cpu` and `on_gpu`.
    """
    length = {"max_model_len": vllm.max_model_len} if vllm.max_model_len else {}
    return {
        "engine": {
            "model": str(folder),
            "dtype": str(dtype_of(models)).removeprefix("torch."),
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "generation_config": "vllm",  # its neutral values, instead of the file beside the weights
            "load_format": "safetensors",
            "enforce_eager": not vllm.compile,
            "tensor_parallel_size": vllm.gpus,
            **length,
        },
        "on_cpu": {"kv_cache_memory_bytes": int(vllm.cpu_cache_gib * _GIB)},
        "on_gpu": {"gpu_memory_utilization": vllm.gpu_memory},
    }


class Engine:
    """A vLLM engine with one policy, in a process that ends with this one.

    Args:
        reference: model reference, or the directory of a checkpoint.
        models: type of the weights, threads and cache.
        key: digest of the weights, see `policy_key`.
        vllm: where the engine is and what it may take.

    Raises:
        ConfigError: vLLM is not installed.
        ModelError: the engine does not start; the message has the end of what it said.
    """

    def __init__(self, reference: str | Path, models: ModelsConfig, key: str, vllm: VllmConfig) -> None:
        for problem in vllm_problems(ExecutionConfig(sampler="vllm", vllm=vllm)):
            raise ConfigError(problem)
        folder = resolve(reference, models)
        self.tokenizer = kept_tokenizer(reference, models, key)
        self._ends = end_tokens(self.tokenizer, inherited_settings(folder, reference))
        self._said: IO[bytes] = tempfile.TemporaryFile(prefix="drirl-vllm-")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [vllm.python or sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=_variables(models, own=not vllm.python),
            start_new_session=True,  # the worker ends its own session, and Ctrl-C is for this process
        )
        started = self._answer(engine_arguments(folder, models, vllm))
        if "ready" not in started:
            raise self._failed(
                f"vLLM cannot load {reference}: {started['error']}; change what the engine may take (execution.vllm), "
                "or set execution.sampler to transformers"
            )
        self.about: Mapping[str, Any] = started["ready"]
        self._check_device(models)

    def _check_device(self, models: ModelsConfig) -> None:
        on, wanted = self.about["device"], models.device if models.device != "auto" else device_of(models).type
        if on != wanted:
            self.close()
            raise ConfigError(
                f"models.device is {models.device!r}, so that models run on {wanted}, but the vLLM that is installed "
                f"samples on {on}; install the vLLM for {wanted}, or set models.device to {on}"
            )

    @property
    def works(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    @property
    def context(self) -> int:
        """Tokens that it can read, prompt and completion together."""
        return int(self.about["context"])

    def decode(self, texts: Sequence[str], keys: Sequence[str], settings: SamplingSettings) -> list[Completion]:
        """Decode one completion per row.

        Args:
            texts: B rendered prompts, each with the prefill.
            keys: B hexadecimal content keys; each seeds the random numbers of its row.
            settings: how to sample; `batch_size` is not used.

        Returns:
            B completions.

        Raises:
            ModelError: the engine failed.
            TrainingError: the policy's logits are not finite.
        """
        prompts = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        parameters = [sampling_parameters(settings, key, self._ends) for key in keys]
        answer = self._answer({"prompts": prompts, "parameters": parameters})
        if "tokens" not in answer:
            raise self._failed(f"vLLM failed while it sampled: {answer['error']}")
        if not all(math.isfinite(value) for value in answer["log_probs"]):
            raise TrainingError(
                "the policy's logits are not finite; its weights are damaged or training diverged "
                "(lower the learning rate)"
            )
        ends = set(self._ends)
        return [
            completion_of(tokens, self.tokenizer, ends, text, prompt[-1] if settings.prefill else None)
            for tokens, text, prompt in zip(answer["tokens"], texts, prompts, strict=True)
        ]

    def close(self) -> None:
        """End the process; what it held is free afterwards."""
        self._end()
        self._said.close()

    def _end(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        with contextlib.suppress(ProcessLookupError):  # none of its session is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Send one line and return the answer; `error` says that there is none."""
        sent, received = self._process.stdin, self._process.stdout
        try:
            sent.write(json.dumps(asked) + "\n")
            sent.flush()
            line = received.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        return {"error": f"its process ended with code {self._process.wait(_GRACE_S)} before it answered"}

    def _failed(self, message: str) -> ModelError:
        """End the process, and return the error with the end of what it said."""
        self._end()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
        self.close()
        return ModelError("\n".join([message, *said]))


_kept: dict[tuple[object, ...], Engine] = {}
"""The last engine, which the categories of a stage share."""


def open_engine(reference: str | Path, models: ModelsConfig, key: str, vllm: VllmConfig, reporter: Reporter) -> Engine:
    """Return the engine of a policy; only one is kept, and another policy takes its place.

    Args:
        reference: model reference, or the directory of a checkpoint.
        models: type of the weights, threads and cache.
        key: digest of the weights.
        vllm: where the engine is and what it may take.
        reporter: is told that an engine starts, which takes a while.
    """
    name = (str(reference), models, key, vllm)
    if name in _kept and _kept[name].works:
        return _kept[name]
    close_engine()
    reporter.log("vLLM: the engine starts")
    _kept[name] = engine = Engine(reference, models, key, vllm)
    reporter.log(f"vLLM {engine.about['version']} samples on {engine.about['device']}")
    return engine


def close_engine() -> None:
    """End the engine that is kept, so that what follows has its memory; nothing happens where there is none."""
    while _kept:
        _kept.popitem()[1].close()


atexit.register(close_engine)


def _variables(models: ModelsConfig, own: bool) -> dict[str, str]:
    """Return the environment of the engine: nothing is reported to its makers, and nothing listens on the network.

    Threads are not bound to cores: by itself vLLM leaves a core idle and binds the others, which other work of the
    machine may hold. What the user has set in the environment is kept.

    Args:
        models: `models.threads`.
        own: whether the engine is in this environment; another one must not import the packages of this one.
    """
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    threads = {"OMP_NUM_THREADS": str(models.threads)} if models.threads else {}
    left_out = _OF_TRAINING if own else (*_OF_TRAINING, "PYTHONPATH", "PYTHONHOME")
    given = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**wanted, **given, **threads}
