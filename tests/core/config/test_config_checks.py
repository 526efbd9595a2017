"""The section `checks`: all bounds, and what happens to their former names."""

from __future__ import annotations

import copy
import operator
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, from_resolved, load_config, resolved
from drirl_core.config.checks import MOVED
from drirl_core.errors import ConfigError


def _load(folder: Path, sections: dict[str, Any] | None = None, overrides: dict[str, Any] | None = None) -> Config:
    file = folder / "run.yaml"
    settings = {"models": {"policy": "hf:org/policy", "encoder": "hf:org/encoder"}, **(sections or {})}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_config(file, overrides)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_bound_under_its_former_name_is_refused_with_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    section, _, name = old.partition(".")
    said = re.escape(f"{old} is called {new} now")
    with pytest.raises(ConfigError, match=said):
        _load(tmp_path, {section: {name: 0.3}})
    with pytest.raises(ConfigError, match=said):
        _load(tmp_path, overrides={old: 0.3})
    assert operator.attrgetter(new)(_load(tmp_path, overrides={new: 0.3})) == 0.3


def test_what_an_earlier_version_wrote_into_an_artifact_is_read(tmp_path: Path) -> None:
    then = resolved(_load(tmp_path))
    del then["checks"]
    then["rewards"]["min_accuracy"], then["promotion"]["level"] = 0.7, 0.01
    before = copy.deepcopy(then)
    config = from_resolved(then)
    assert (config.checks.min_accuracy, config.checks.promotion_level, config.checks.max_kl) == (0.7, 0.01, 2.0)
    assert then == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_accuracy", 1.1), ("max_kl", 0.0), ("max_over_refusal", -0.1), ("promotion_level", 1.0)],
)
def test_bounds_that_make_no_sense_are_refused(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"checks\.{name} is {value}"):
        _load(tmp_path, overrides={f"checks.{name}": value})
