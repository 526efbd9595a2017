"""Paths of the configuration: `~` is the home directory everywhere, variables are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, ModelsConfig, load_config
from drirl_core.config.place import anchored, find_config
from drirl_core.config.reading import expanded
from drirl_core.errors import ConfigError, ModelError
from drirl_core.models.references import resolve

MODELS = {"policy": "path:~/policy", "encoder": "path:~/encoder", "cache": "~/models"}
EVERY_PATH: dict[str, Any] = {
    "root": "~/root",
    "mirror": "~/mirror",
    "models": MODELS,
    "prompts": {"taxonomy": "~/taxonomy.yaml", "sources": [{"name": "a", "path": "~/a.csv"}]},
    "demonstrations": {
        "helpful": {"name": "h", "path": "~/h.csv"},
        "refusals": {"name": "r", "path": "~/r.csv"},
        "demonstrator": {"kind": "model", "model": "path:~/writer", "source": {"name": "d", "path": "~/d.csv"}},
    },
    "benchmarks": {"suites": [{"name": "s", "path": "~/suite"}]},
    "operations": {"inbox": {"folder": "~/drop"}, "alerts": {"hooks": [{"kind": "file", "path": "~/alerts"}]}},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "somebody"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def _paths(config: Config) -> list[str]:
    demonstrations, operations = config.demonstrations, config.operations
    return [
        config.root,
        config.mirror,
        *(value.removeprefix("path:") for value in (config.models.policy, config.models.encoder)),
        config.models.cache,
        str(config.prompts.taxonomy),
        config.prompts.sources[0].path,
        demonstrations.helpful.path,
        demonstrations.refusals.path,
        demonstrations.demonstrator.model.removeprefix("path:"),
        demonstrations.demonstrator.source.path,
        config.benchmarks.suites[0].path,
        str(operations.inbox.folder),
        str(operations.alerts.hooks[0].path),
    ]


def test_the_home_directory_stands_for_a_tilde_in_every_path(tmp_path: Path, home: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(EVERY_PATH), encoding="utf-8")
    names = ("root", "mirror", "policy", "encoder", "models", "taxonomy.yaml", "a.csv", "h.csv", "r.csv", "writer")
    wanted = [f"{home}/{name}" for name in (*names, "d.csv", "suite", "drop", "alerts")]
    assert _paths(load_config(tmp_path / "run.yaml")) == wanted
    assert _paths(anchored(load_config(tmp_path / "run.yaml"))) == wanted


def test_a_tilde_in_the_name_of_a_configuration_in_extends_and_in_overrides(tmp_path: Path, home: Path) -> None:
    (home / "base.yaml").write_text(yaml.safe_dump({"models": MODELS, "seed": 3}), encoding="utf-8")
    (home / "run.yaml").write_text("extends: ~/base.yaml\n", encoding="utf-8")
    assert load_config("~/run.yaml").seed == 3
    assert find_config(Path("~/run.yaml")) == home / "run.yaml"
    changed = load_config("~/run.yaml", {"root": "~/else", "models.cache": "~/c", "prompts.taxonomy": "~/t.yaml"})
    assert (changed.root, changed.models.cache) == (f"{home}/else", f"{home}/c")
    assert changed.prompts.taxonomy == f"{home}/t.yaml"


def test_a_configuration_made_in_python_is_anchored_in_the_same_way(home: Path) -> None:
    config = anchored(Config(ModelsConfig("hf:a", "hf:b", cache="~/m"), root="~/r", mirror="~/x"))
    assert (config.root, config.mirror, config.models.cache) == (f"{home}/r", f"{home}/x", f"{home}/m")


def test_uris_and_relative_paths_stay(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for root in ("s3://bucket/~prefix", "results", "a~b", "./~x"):
        file.write_text(yaml.safe_dump({"models": {"policy": "hf:a", "encoder": "hf:b"}, "root": root}))
        assert load_config(file).root == root


def test_a_model_named_on_its_own(home: Path) -> None:
    with pytest.raises(ModelError, match=f"{home}/policy is not a directory"):
        resolve("path:~/policy", ModelsConfig("hf:a", "hf:b"))


@pytest.mark.parametrize("path", ["$HOME/a.csv", "${HOME}/a.csv", "$DATA"])
def test_a_variable_is_refused_because_it_is_not_replaced(tmp_path: Path, path: str) -> None:
    for sections in ({"root": path}, {"prompts": {"sources": [{"name": "a", "path": path}]}}):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"models": MODELS, **sections}), encoding="utf-8")
        with pytest.raises(ConfigError, match="begins with a variable"):
            load_config(tmp_path / "run.yaml")


def test_a_user_who_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="'~nobody_of_that_name/a' begins with ~, but that user has no home"):
        expanded("~nobody_of_that_name/a")
