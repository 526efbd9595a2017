"""Reward functions of the user's own, found by dotted name, checked before anything loads, added to the reward."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from drirl_core.errors import ConfigError, TrainingError, nearest

if TYPE_CHECKING:
    import numpy as np

    from drirl_core.config import Config, OwnRewardConfig

Function = Callable[[Sequence[str], Sequence[str], Sequence[str]], Sequence[float]]
"""Prompts, completions and categories of B rows to B rewards."""

_SETTING = "policy.own_rewards"


@dataclass(frozen=True)
class OwnReward:
    """A reward function of the user's own.

    Args:
        name: its dotted name.
        weight: what its values are multiplied by.
        function: the function.
    """

    name: str
    weight: float
    function: Function

    @property
    def metric(self) -> str:
        """Name of its logged mean."""
        return mean_metric(self.name)

    def values(
        self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str], ids: Sequence[str]
    ) -> np.ndarray:
        """Return what the function says of a batch, without the weight.

        Args:
            prompts: B user messages.
            completions: B completions without drafts.
            categories: category of each row; `helpful` marks harmless prompts.
            ids: identifies the prompt of each row, for messages.

        Returns:
            Finite values, float64, (B,).

        Raises:
            TrainingError: the function raised an error, or returned another number of values or one that is no finite
                number; the message names the row.
        """
        import numpy as np  # not above: versions are computed without it

        columns = list(prompts), list(completions), list(categories)
        try:
            found = list(self.function(*columns))
        except Exception as error:
            raise TrainingError(
                f"{_SETTING}: {self.name} raised {type(error).__name__}: {error} {self._where(columns, ids)}; "
                "correct the function, and run again"
            ) from error
        if len(found) != len(ids):
            raise TrainingError(
                f"{_SETTING}: {self.name} returned {len(found)} values for {len(ids)} completions; return one "
                "number for each, in their order"
            )
        numbers = list(map(_number, found))
        for row, number in enumerate(numbers):
            if not math.isfinite(number):
                raise TrainingError(
                    f"{_SETTING}: {self.name} returned {found[row]!r} for {_row(row, ids)}; return a finite number for "
                    "every completion, an empty one too"
                )
        return np.array(numbers, dtype=np.float64)

    def _where(self, columns: tuple[list[str], ...], ids: Sequence[str]) -> str:
        """Say at which row the function fails when it is asked for one row after the other."""
        for row in range(len(ids)):
            try:
                list(self.function(*([column[row]] for column in columns)))
            except Exception:
                return f"for {_row(row, ids)}"
        return f"for a batch of {len(ids)} completions, although for none of them alone"


def mean_metric(name: str) -> str:
    """Return the name under which the mean of a function's values is logged."""
    return f"own_reward/{name}/mean"


def load_own_rewards(settings: Sequence[OwnRewardConfig]) -> tuple[OwnReward, ...]:
    """Import the functions that `policy.own_rewards` names.

    Raises:
        ConfigError: one cannot be imported, is no function, or does not take three arguments.
    """
    return tuple(OwnReward(one.function, one.weight, _function(one)) for one in settings)


def sources_of(config: Config) -> dict[str, str]:
    """Return a digest of the file of each function, by a name for people; nothing is imported.

    A function that is not found is no error here, where versions are compared: whoever loads it says so.
    """
    return {f"source of {one.function}": _digest(one) for one in config.policy.own_rewards}


def _digest(setting: OwnRewardConfig) -> str:
    found = _found(setting)
    try:
        return hashlib.sha256(Path(found[0].origin or "").read_bytes()).hexdigest()[:16] if found else "not found"
    except OSError:
        return "unreadable"


def _found(setting: OwnRewardConfig) -> tuple[ModuleSpec, bool] | None:
    """Find a function's module without importing it: in the folder, else among what is installed.

    Returns:
        Where it is, and whether that is in the folder; None where it is nowhere.
    """
    names = setting.function.split(".")[:-1]
    for in_folder in (True, False):
        spec = PathFinder.find_spec(names[0], [setting.folder]) if in_folder else _installed(names[0])
        for count in range(2, len(names) + 1):
            inside = list(spec.submodule_search_locations or ()) if spec else []
            spec = PathFinder.find_spec(".".join(names[:count]), inside)
        if spec is not None and spec.origin:
            return spec, in_folder
    return None


def _installed(top: str) -> ModuleSpec | None:
    # Not importlib.util.find_spec, which answers with what is loaded already, even if its file is gone.
    found = (finder.find_spec(top, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next(filter(None, found), None)


def _function(setting: OwnRewardConfig) -> Function:
    module, _, name = setting.function.rpartition(".")
    loaded = _module(setting, module)
    if not hasattr(loaded, name):
        own = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{_SETTING}: {loaded.__file__} has no {name!r}; {nearest(name, own)}")
    function = getattr(loaded, name)
    if not callable(function):
        raise ConfigError(f"{_SETTING}: {setting.function} is a {type(function).__name__}; name a function")
    try:
        taken = inspect.signature(function)
    except ValueError:  # compiled functions need not say what they take
        return function
    try:
        taken.bind([], [], [])
    except TypeError as error:
        raise ConfigError(
            f"{_SETTING}: {setting.function}{taken} cannot be called with three arguments "
            f"({error}); it must take prompts, completions and categories"
        ) from error
    return function


def _module(setting: OwnRewardConfig, module: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may be new
    top = module.partition(".")[0]
    found = _found(setting)
    taken = found is not None and _is_taken(top, setting.folder, found[1])
    if found is None or taken:
        problem = "has the name of another module that is installed; rename yours" if taken else "is not there"
        modules = [path.stem for path in Path(setting.folder).glob("*") if path.suffix == ".py" or path.is_dir()]
        own = [name for name in modules if name.isidentifier()]
        raise ConfigError(
            f"{_SETTING}: the module {module!r} of {setting.function} {problem}; "
            f"in {setting.folder}: {nearest(top, own)}"
        )
    spec, in_folder = found
    try:
        return _fresh(spec, setting.folder) if in_folder else importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"{_SETTING}: {spec.origin} cannot be imported: {type(error).__name__}: {error}; correct it"
        ) from error


def _is_taken(top: str, folder: str, in_folder: bool) -> bool:
    """Say whether a module of the folder would take the place of one of Python or of an installed package."""
    if top in sys.stdlib_module_names:
        return True
    mine, other = PathFinder.find_spec(top, [folder]), _installed(top)
    return bool(in_folder and mine and other and other.origin and mine.origin != other.origin)


def _fresh(spec: ModuleSpec, folder: str) -> ModuleType:
    """Run the current file of a module of the folder: it may have been edited since this process loaded it."""
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    sys.path.append(folder)  # last, so that no file of the user takes the place of an installed module
    try:
        if spec.loader is not None:
            spec.loader.exec_module(module)
    except Exception:
        del sys.modules[spec.name]
        raise
    finally:
        sys.path[:] = before
    return module


def _number(value: Any) -> float:
    """Return a value as a number; NaN where it is none."""
    if value is None or isinstance(value, str | bytes):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _row(row: int, ids: Sequence[str]) -> str:
    return f"the completion of prompt {ids[row]} (row {row} of {len(ids)})"
