"""How the threads of torch wait for each other: chosen by the load of the machine, before torch is loaded.

OpenMP's threads spin while they wait. On an idle machine that saves a fifth of the time. Beside other work the spinning
threads take the cores away from the ones they wait for, and everything becomes several times slower. Threads that spin
for a moment and then sleep lie between the two in both cases. benchmarks/busy_machine.py measures all three.
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
"""How often a machine that seems busy is measured, and the seconds between two measurements."""
_FREE_SHARE = 0.75
"""Share of the cores that must be free for spinning without an end to pay."""
_SPINS = "100"
"""Times that threads spin before they sleep on a machine that seems busy: a few microseconds."""


def choose_waiting(models: ModelsConfig) -> str:
    """Set how OpenMP's threads wait, for this process.

    A choice that the user made by one of OpenMP's own variables is kept, and so is the default once torch is loaded,
    because OpenMP reads its variables only then. The choice holds for a complete training, so that a machine which
    seems busy is looked at again: one free moment within some two seconds, and its load is not that of work that lasts.
    Work that does last for those seconds may end soon all the same. So threads then spin a little before they sleep.

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
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT=_SPINS)  # an OpenMP without the second obeys the first
    return (
        f"other work uses {cores - free:.1f} of {cores} cores: waiting threads soon sleep "
        "(models.waiting: spin or sleep changes that)"
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
