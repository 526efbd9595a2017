"""How the threads of torch wait for each other: chosen by the load of the machine, before torch is loaded.

OpenMP's threads spin while they wait. On an idle machine that saves a fifth of the time. Beside other work the spinning
threads take the cores away from the ones they wait for, and everything becomes several times slower.
benchmarks/busy_machine.py measures both.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drirl_core.config import ModelsConfig

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_LOOK_S = 0.3
_LOOKS, _PAUSE_S = 4, 0.4
"""Looks at a machine that seems busy, and what lies between two of them."""
_FREE_SHARE = 0.75
"""Share of the cores that must be free for spinning to pay."""


def choose_waiting(models: ModelsConfig) -> str:
    """Set how OpenMP's threads wait, for this process.

    A choice that the user made by one of OpenMP's own variables is kept, and so is the default once torch is loaded,
    because OpenMP reads its variables only then. The choice holds for minutes, so that a machine which seems busy is
    looked at again: one free moment within some two seconds, and its load is not that of work that lasts.

    Args:
        models: `models.waiting` and `models.threads`.

    Returns:
        What was chosen and why, for the log; empty where nothing was changed.
    """
    given = [name for name in _VARIABLES if name in os.environ]
    if given or "torch" in sys.modules or models.waiting == "spin":
        return ""
    if models.waiting == "sleep":
        os.environ["OMP_WAIT_POLICY"] = "passive"
        return ""
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE_S)
        free, cores = free_cores()
        if free >= _FREE_SHARE * cores:
            return ""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return (
        f"other work uses {cores - free:.1f} of {cores} cores: threads sleep while they wait "
        "(models.waiting: spin changes that)"
    )


def free_cores() -> tuple[float, int]:
    """Measure for a moment how many of the cores that this process may use are free.

    Returns:
        Free cores, from 0 to their number, and their number.
    """
    import psutil

    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    used = psutil.cpu_percent(interval=_LOOK_S, percpu=True)
    busy = sum(used[core] for core in mine if core < len(used)) / 100
    return max(0.0, len(mine) - busy), len(mine)
