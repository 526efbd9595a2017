"""The code location: everything under `pipeline/defs`, for the configuration that `DRIRL_CONFIG` names.

Start it with `make dev`, or with `dagster dev` or `dg dev` and DAGSTER_HOME set.
"""

import importlib
import pkgutil

import dagster as dg

import pipeline.defs
from pipeline.executors.choice import executor_of
from pipeline.instance.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Load every definition and choose how steps run.

    Raises:
        ConfigError: the configuration is wrong, or packages of its executor are missing.
    """
    return dg.Definitions.merge(load_folder(), dg.Definitions(executor=executor_of(current().config)))


def load_folder() -> dg.Definitions:
    """Merge the `defs` functions of all modules below `pipeline/defs`.

    `dg.load_from_defs_folder` finds the same ones, but each time builds the JSON schemas of all component types of all
    installed packages, which this project does not use and every step would pay for (0.3 s).
    """
    names = sorted(module.name for module in pkgutil.walk_packages(pipeline.defs.__path__, "pipeline.defs."))
    modules = map(importlib.import_module, names)
    return dg.Definitions.merge(*(module.defs() for module in modules if hasattr(module, "defs")))
