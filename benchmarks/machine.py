"""What every measurement must record: machine, versions, date."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from drirl_core.stats import Estimate

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Return processor, cores, GPU, Python and the versions of the libraries that are there, and the date."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = ("dagster", "torch", "transformers", "trl", "peft")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model,
        "cores": os.cpu_count(),
        **({"gpu": gpu} if (gpu := _gpu()) else {}),
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version(name))},
    }


def _gpu() -> str | None:
    """Return name and memory of the GPU, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return f"{found.name}, {found.total_memory / 2**30:.0f} GiB"


def _version(package: str) -> str | None:
    """Return the version of a package, or None where it is not installed: a GPU machine may have no dagster."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def shown(found: Estimate) -> dict[str, Any]:
    """Return a value with its 95 % interval, rounded."""
    return {"value": round(found.value, 3), "interval_95": [round(found.low, 3), round(found.high, 3)]}


def write(name: str, result: dict[str, Any], *, show: bool = True) -> Path:
    """Write a result beside the machine's description, and print it unless `show` is off."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": describe(), **result}, indent=1) + "\n", encoding="utf-8")
    if show:
        print(json.dumps(result, indent=1))
    return file
