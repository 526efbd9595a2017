"""Any table of any asset as a DataFrame, and errors that say what there is and how to make what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import drirl_core
from drirl_core import open_table
from drirl_core.config import Config, ModelsConfig
from drirl_core.errors import ArtifactError, ConfigError, DataError
from drirl_core.store.artifacts import Artifact, ArtifactStore
from drirl_core.store.tables import write_table

HEAVY = ("pandas", "pyarrow", "numpy", "scipy", "torch", "yaml")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(models=ModelsConfig(policy="path:/p", encoder="path:/e"), root=str(tmp_path / "artifacts"))


def publish(config: Config, asset: str, tables: Mapping[str, list[dict[str, Any]]], inputs: str = "1") -> Artifact:
    """Publish an artifact of tables whose columns are texts or integers."""
    store, fingerprint = ArtifactStore(config.root), inputs * 16
    with store.building(asset, fingerprint) as workspace:
        for name, rows in tables.items():
            path = workspace.out / name
            if path.suffix == ".parquet":
                types = {key: pa.int32() if isinstance(value, int) else pa.string() for key, value in rows[0].items()}
                write_table(path, rows, pa.schema(list(types.items())))
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return store.publish(asset, fingerprint, workspace, details={"metadata": {}})


def rows(frame: Any) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, drirl_core; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "open_table" in drirl_core.__all__
    with pytest.raises(AttributeError, match="no attribute 'open_tables'"):
        drirl_core.open_tables  # noqa: B018


def test_the_main_table_of_the_newest_version_is_opened(config: Config) -> None:
    older = [{"policy": "base", "tokens": 3}]
    newer = [{"policy": "base", "tokens": 3}, {"policy": "dr_irl", "tokens": 4}]
    first = publish(config, "benchmark_embedded", {"replies.parquet": older}, inputs="1")
    second = publish(config, "benchmark_embedded", {"replies.parquet": newer}, inputs="2")

    frame = open_table("benchmark_embedded", config=config)
    assert rows(frame) == newer
    assert frame.attrs == {
        "asset": "benchmark_embedded",
        "version": second.version,
        "path": str(second.path / "replies.parquet"),
    }
    assert rows(open_table("benchmark_embedded", config=config, version=first.version)) == older


def test_a_table_may_be_named(config: Config) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": [{"prompt": "a"}], "quarantine.parquet": [{"reason": "b"}]})
    log = [{"step": 1, "kl": 0.1}, {"step": 2, "alpha/insult/mean": 1.02}]
    publish(config, "policy_checkpoint", {"training_log.jsonl": log})

    assert rows(open_table("prompt_pool", config=config, table="quarantine.parquet")) == [{"reason": "b"}]
    frame = open_table("policy_checkpoint", config=config, table="training_log.jsonl")
    assert frame["step"].tolist() == [1, 2]
    assert frame["kl"].isna().tolist() == [False, True]


def test_the_settings_may_be_a_file_whose_root_starts_at_the_project(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(config, "balance_report", {"rows.jsonl": [{"a": 1}]})
    monkeypatch.setattr("drirl_core.config.place.PROJECT", tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text(
        "models: {policy: 'path:/p', encoder: 'path:/e'}\nroot: artifacts\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    assert rows(open_table("balance_report", table="rows.jsonl")) == [{"a": 1}]
    with pytest.raises(ArtifactError, match=r"make it with `drirl run configs/demo\.yaml --only report`"):
        open_table("report")
    with pytest.raises(ConfigError, match=r"other\.yaml"):
        open_table("report", config="other.yaml")


def test_an_unknown_asset_gets_the_nearest_and_all_there_are(config: Config) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_table("benchmark_embeded", config=config)
    assert "there is no asset 'benchmark_embeded'; did you mean 'benchmark_embedded'? Known: " in str(caught.value)
    assert "reward_model_insult" in str(caught.value)


def test_what_was_not_made_yet_says_how_to_make_it_and_what_was_made(config: Config) -> None:
    with pytest.raises(ArtifactError, match=r"hardness_insult was not made yet .*--only hardness_insult`.*: nothing"):
        open_table("hardness_insult", config=config)
    publish(config, "prompt_pool", {"prompts.parquet": [{"prompt": "a"}]})
    with pytest.raises(ArtifactError, match=r"Made there: prompt_pool$"):
        open_table("hardness_insult", config=config)


def test_an_input_is_told_apart_from_an_asset(config: Config) -> None:
    with pytest.raises(DataError, match=r"source_helpful is an input .*data/helpful\.jsonl itself"):
        open_table("source_helpful", config=config)


def test_an_asset_of_other_settings_is_opened_too(config: Config) -> None:
    publish(config, "benchmark_own", {"replies.parquet": [{"reply": "no"}]})
    assert rows(open_table("benchmark_own", config=config)) == [{"reply": "no"}]


def test_an_unknown_table_or_version_gets_the_nearest(config: Config) -> None:
    made = publish(config, "reward_model_insult", {"rewards.parquet": [{"policy": "base"}], "log.jsonl": [{"a": 1}]})
    with pytest.raises(
        ArtifactError, match=r"no table 'reward\.parquet'; did you mean 'rewards\.parquet'\? Known: log"
    ):
        open_table("reward_model_insult", config=config, table="reward.parquet")
    with pytest.raises(ArtifactError, match=rf"no version '0000'.* Known: {made.version}"):
        open_table("reward_model_insult", config=config, version="0000")


def test_an_asset_without_a_main_table_lists_its_tables(config: Config) -> None:
    publish(config, "policy_checkpoint", {"training_log.jsonl": [{"step": 1}], "times.jsonl": [{"step": 1}]})
    publish(config, "report", {"report.html": [{}]})
    with pytest.raises(ArtifactError, match=r"no main table; .*: times\.jsonl, training_log\.jsonl"):
        open_table("policy_checkpoint", config=config)
    with pytest.raises(ArtifactError, match="report holds no table; its files are in"):
        open_table("report", config=config)


def test_a_damaged_table_is_said(config: Config) -> None:
    made = publish(config, "prompt_pool", {"prompts.parquet": [{"prompt": "a"}], "log.jsonl": [{"a": 1}]})
    for name, form in (("prompts.parquet", "parquet"), ("log.jsonl", "JSON lines")):
        file = made.path / name
        file.write_bytes(b"[" + b"x" * (file.stat().st_size - 1))  # the size that the manifest names
        with pytest.raises(DataError, match=rf"{name} cannot be read as {form}"):
            open_table("prompt_pool", config=config, table=name)
    (made.path / "log.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"prompt_pool .* is gone or damaged; make it again with `drirl run"):
        open_table("prompt_pool", config=config)
