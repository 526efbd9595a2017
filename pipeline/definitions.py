"""The code location: everything under `pipeline/defs`, for the configuration that `DRIRL_CONFIG` names.

Start it with `make dev`, or, once `drirl home` was called, with `dg dev` or `dagster dev`.
"""

import importlib
import os
from pathlib import Path

import dagster as dg

from pipeline.executors.choice import executor_of
from pipeline.instance.env_file import lost_history
from pipeline.instance.settings import current

FOLDER = Path(__file__).parent / "defs"
OWN_MODULES = ("assets", "automation", "checks", "sensors")
"""The modules below `FOLDER` that belong to the project; each has one function `defs`."""


@dg.definitions
def defs() -> dg.Definitions:
    """Load every definition and choose how steps run.

    Raises:
        ConfigError: the configuration is wrong, or packages of its executor are missing.
    """
    advice = lost_history()
    if advice:
        dg.get_dagster_logger().warning(advice)
    return dg.Definitions.merge(load_folder(), dg.Definitions(executor=executor_of(current().config)))


def load_folder() -> dg.Definitions:
    """Load what stands below `pipeline/defs`.

    Dagster's own loader finds the project's modules too, but each time builds the JSON schemas of all component types
    of all installed packages, for which every step would pay 0.3 s. So it is used only where somebody added
    something, such as what `dg scaffold defs` writes.
    """
    if added_files():
        return dg.load_from_defs_folder(path_within_project=FOLDER)
    modules = (importlib.import_module(f"pipeline.defs.{name}") for name in OWN_MODULES)
    return dg.Definitions.merge(*(module.defs() for module in modules))


def added_files() -> list[Path]:
    """Return the Python and YAML files below `pipeline/defs` that do not belong to the project."""
    own = {FOLDER.joinpath(*name.split(".")).with_suffix(".py") for name in OWN_MODULES}
    own |= {file.parent / "__init__.py" for file in own} | {FOLDER / "__init__.py"}
    found = (Path(folder, name) for folder, _, names in os.walk(FOLDER) for name in names)
    return sorted(file for file in found if file.suffix in (".py", ".yaml", ".yml") and file not in own)
