"""The code location: everything under `pipeline/defs`, for the configuration that `DRIRL_CONFIG` names.

Start it with `make dev`, or with `dagster dev` or `dg dev` and DAGSTER_HOME set.
"""

import importlib
import os
import pkgutil

import dagster as dg

import pipeline.defs
from drirl_core.errors import ConfigError, nearest

EXECUTOR_VARIABLE = "DRIRL_EXECUTOR"
EXECUTORS: dict[str, dg.ExecutorDefinition] = {
    "in_process": dg.in_process_executor,
    # forkserver starts a step in half the time of spawn; torch is not preloaded, because CUDA does not survive a fork
    "multiprocess": dg.multiprocess_executor.configured({"start_method": {"forkserver": {"preload_modules": ["dagster"]}}}),
}


@dg.definitions
def defs() -> dg.Definitions:
    """Load every definition and choose how steps run.

    Raises:
        ConfigError: the configuration is wrong, or `DRIRL_EXECUTOR` names no executor.
    """
    return dg.Definitions.merge(load_folder(), dg.Definitions(executor=executor()))


def load_folder() -> dg.Definitions:
    """Merge the `defs` functions of all modules below `pipeline/defs`.

    `dg.load_from_defs_folder` finds the same ones, but each time builds the JSON schemas of all component types of all
    installed packages, which this project does not use and every step would pay for (0.3 s).
    """
    names = sorted(module.name for module in pkgutil.walk_packages(pipeline.defs.__path__, "pipeline.defs."))
    modules = map(importlib.import_module, names)
    return dg.Definitions.merge(*(module.defs() for module in modules if hasattr(module, "defs")))


def executor() -> dg.ExecutorDefinition:
    """Return the executor that `DRIRL_EXECUTOR` names, `multiprocess` without it.

    Raises:
        ConfigError: it names no executor.
    """
    name = os.environ.get(EXECUTOR_VARIABLE) or "multiprocess"
    if name not in EXECUTORS:
        raise ConfigError(f"{EXECUTOR_VARIABLE} is {name!r}, which is no executor; {nearest(name, EXECUTORS)}")
    return EXECUTORS[name]
