"""Distribute the heavy steps of one machine over its GPUs: each worker sees only the GPUs that it took."""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from drirl_core.errors import ConfigError

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


@contextlib.contextmanager
def taken_gpus(count: int) -> Iterator[dict[str, str]]:
    """Take GPUs for a worker; they are released at the end or when this process dies.

    Unused GPUs are taken first, then shared ones. This never waits: the Dagster pool limits how many steps run at once.

    Args:
        count: how many; fewer are returned when the machine has fewer.

    Yields:
        The environment variable that shows the worker its GPUs; empty when there is only one GPU or none.
    """
    gpus = visible_gpus()
    if count < 1 or len(gpus) < 2:
        yield {}
        return
    with contextlib.ExitStack() as locks:
        taken = _take(gpus, min(count, len(gpus)), locks)
        yield {GPU_VARIABLE: ",".join(taken)}


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    named = os.environ.get(GPU_VARIABLE)
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    # By UUID: the driver and CUDA number the same GPUs in different orders.
    return ask_driver("uuid")


def ask_driver(fields: str) -> list[str]:
    """Ask the NVIDIA driver about its GPUs.

    Args:
        fields: the fields to query, with the names of `nvidia-smi --query-gpu`.

    Returns:
        One line per GPU; empty when there is no driver or it does not answer.
    """
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]


def _take(gpus: list[str], count: int, locks: contextlib.ExitStack) -> list[str]:
    folder = _lock_folder()
    slots = (
        (gpu, users) for users in itertools.count() for gpu in gpus
    )  # first those without users, then those with one, ...
    taken: list[str] = []
    while len(taken) < count:
        gpu, users = next(slots)
        if gpu not in taken:
            with contextlib.suppress(Timeout):
                locks.enter_context(FileLock(folder / f"{gpu.replace('/', '_')}.{users}").acquire(timeout=0))
                taken.append(gpu)
    return taken


def _lock_folder() -> Path:
    """Return a directory of this machine and user; a Dagster home may be shared by machines."""
    folder = Path(tempfile.gettempdir()) / f"drirl-gpus-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be created ({error}); it holds the locks with which steps share GPUs; set TMPDIR "
            "to another directory"
        ) from error
    return folder
