"""What decides the version of an asset: settings, the content of files they name, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import drirl_core
from drirl_core.benchmarks import declared
from drirl_core.config import Config, load_config, resolved
from drirl_core.config.slices import covers, slice_of
from drirl_core.graph.layout import build_graph
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version, contents, source_version
from drirl_core.prompts import layouts
from drirl_core.taxonomy import SEVEN_CATEGORIES

EXAMINATION = ("reference_classifiers", "benchmark")


def _config(folder: Path, overrides: dict[str, Any] | None = None) -> Config:
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'artifacts'}\n", encoding="utf-8"
    )
    return load_config(file, overrides)


def _changed(before: Config, after: Config) -> set[str]:
    nodes = build_graph(before).nodes
    return {node.stage for node in nodes.values() if code_version(node, before) != code_version(node, after)}


@pytest.mark.parametrize(
    ("overrides", "stale"),
    [
        ({"name": "other"}, {"report", "model_card"}),
        ({"root": "elsewhere"}, set()),
        ({"models.cache": "elsewhere", "models.threads": 3, "execution.category_steps": "apart"}, set()),
        ({"hardness.sharpness": 2.0}, {"hardness", "policy_checkpoint"}),
        ({"rewards.beta": 2.0}, {"reward_model"}),
        ({"rewards.rounds": 3, "rewards.round_samples": 1, "rewards.round_start": "previous"}, set()),
        ({"sft.epochs": 1.0}, {"sft_checkpoint"}),
        ({"completions.batch_size": 3}, {"completion_pool"}),
        ({"policy.steps": 3}, {"policy_checkpoint"}),
        ({"benchmarks.max_new_tokens": 3}, {"benchmark"}),
        (
            {"benchmarks.suites": [{"name": "embedded", "limit": 2}]},
            {"benchmark"},
        ),  # its prompts are kept out whatever the limit
        # Its prompts are kept out of the training data by what they repeat (test_exclusion).
        ({"benchmarks.suites": [{"name": "xstest"}]}, {"benchmark"}),
        ({"benchmarks.suites": [{"name": "embedded"}, {"name": "xstest"}]}, set()),
        ({"hardness.refresh": "once", "hardness.granularity": "completion"}, {"policy_checkpoint"}),
        ({"hardness.responsiveness": "ema", "hardness.ema_decay": 0.5}, {"policy_checkpoint"}),
        (
            {"models.dtype": "float32"},
            {"sft_checkpoint", "completion_pool", "reward_model", "policy_checkpoint", *EXAMINATION},
        ),
        (
            {"models.thinking": True},
            {"sft_checkpoint", "completion_pool", "reward_model", "policy_checkpoint", *EXAMINATION},
        ),
        ({"models.thinking": False}, set()),
        ({"prompts.router_confidence": 0.1}, {"prompt_pool"}),
        ({"models.encoder": "hf:b/encoder"}, {"prompt_pool", "hardness", "policy_checkpoint"}),
        (
            {"models.policy": "hf:b/policy"},
            {"sft_checkpoint", "completion_pool", "reward_model", "policy_checkpoint", *EXAMINATION},
        ),
        ({"benchmarks.score": "samples"}, {"benchmark"}),
        ({"benchmarks.reference_over_refusal": 0.1}, {"reference_classifiers"}),
    ],
)
def test_a_setting_makes_stale_what_it_decides_and_nothing_else(
    tmp_path: Path, overrides: dict[str, Any], stale: set[str]
) -> None:
    assert _changed(_config(tmp_path), _config(tmp_path, overrides)) == stale


def test_rewards_depend_on_the_model_that_their_backbone_reads(tmp_path: Path) -> None:
    embedding: dict[str, Any] = {"rewards.backbone": "embedding"}
    before = _config(tmp_path, embedding)
    assert "reward_model" in _changed(before, _config(tmp_path, {**embedding, "models.encoder": "hf:b/encoder"}))
    assert "reward_model" not in _changed(before, _config(tmp_path, {**embedding, "models.policy": "hf:b/policy"}))
    assert _changed(before, _config(tmp_path)) == {"reward_model"}
    adapter: dict[str, Any] = {"rewards.backbone": "adapter"}
    adapters = _config(tmp_path, adapter)
    assert _changed(before, adapters) == {"reward_model"}
    assert _changed(adapters, _config(tmp_path, {**adapter, "rewards.adapter": {"rank": 4}})) == {"reward_model"}
    assert _changed(adapters, _config(tmp_path, {**adapter, "rewards.adapter": {"rank": 8}})) == set()  # the default
    assert "reward_model" in _changed(adapters, _config(tmp_path, {**adapter, "models.policy": "hf:b/policy"}))
    assert "reward_model" not in _changed(adapters, _config(tmp_path, {**adapter, "models.encoder": "hf:b/encoder"}))


def test_bounds_of_checks_and_the_interval_of_checkpoints_make_nothing_stale(tmp_path: Path) -> None:
    bounds: dict[str, Any] = {
        "checks.max_resampled_fraction": 0.5, "demonstrations.demonstrator.api_key_env": "KEY", "checks.min_accuracy": 0.6,
        "checks.max_kl": 9.0, "policy.save_steps": 1, "checks.max_over_refusal": 0.5, "checks.min_refusal": 0.1,
        "checks.promotion_level": 0.2,
        "checks.report_only": ["embedded"], "checks.min_within_group": 0.1, "checks.max_cut_rows": 0.9,
    }  # fmt: skip
    assert _changed(_config(tmp_path), _config(tmp_path, bounds)) == set()


def test_settings_that_no_build_reads_are_there_and_below_what_their_stage_reads(tmp_path: Path) -> None:
    changed = {"policy.reward": "verifiable", "policy.own_rewards": [{"function": "shaping.short"}]}
    data = resolved(_config(tmp_path, changed))  # at their defaults they are in no slice
    for name, stage in STAGES.items():
        for setting in stage.unread:
            assert covers(stage.config, setting), f"{name}: {setting}"
            assert slice_of(data, stage.config) != slice_of(data, stage.config, (setting,)), (
                f"{name}: {setting} is no setting"
            )


CHANGED_SINCE_0_1 = {
    "prompt_pool", "dataset", "sft_checkpoint", "reward_model", "hardness", "policy_checkpoint", "benchmark", "report", "model_card",
}  # fmt: skip
"""Stages whose algorithm was raised since 0.1, because their results changed; CHANGELOG.md says why."""


def test_stages_that_did_not_change_keep_the_code_versions_of_version_0_1() -> None:
    """Settings and files give what they gave then, so that an upgrade recomputes only what it changed."""
    recorded = json.loads(Path(__file__).with_name("code_versions_0_1.json").read_text(encoding="utf-8"))
    for name, before in recorded.items():
        file = Path(drirl_core.__file__).parents[1] / "configs" / f"{name}.yaml"
        config = load_config(file, {"demonstrations.quota": 60})  # the default of then
        nodes = build_graph(config).nodes
        now = {asset: code_version(nodes[asset], config) for asset in before}
        kept = {asset for asset in before if nodes[asset].stage not in CHANGED_SINCE_0_1}
        assert len(kept) > 8
        if name != "demo":  # whose own settings changed
            assert {asset: now[asset] for asset in kept} == {asset: before[asset] for asset in kept}, name
        assert all(now[asset].partition("-")[0] > before[asset].partition("-")[0] for asset in before.keys() - kept), (
            name
        )


def test_no_stage_reads_the_bounds_of_checks(tmp_path: Path) -> None:
    assert [name for name, stage in STAGES.items() if any(part.startswith("checks") for part in stage.config)] == []
    rooms = {stage.function.split(".")[1] for stage in STAGES.values()}
    package = Path(drirl_core.__file__).parent
    readers = [
        str(file) for room in rooms for file in (package / room).rglob("*.py") if "config.checks" in file.read_text()
    ]
    assert readers == []


def test_a_model_that_writes_demonstrations_decides_them_by_its_type_as_well(tmp_path: Path) -> None:
    written = {"demonstrations.demonstrator": {"kind": "model", "model": "hf:a/writer"}}
    for change in ({"models.dtype": "bfloat16"}, {"models.thinking": True}):
        after = _config(tmp_path, {**written, **change})
        assert "dataset" in _changed(_config(tmp_path, written), after)


def test_the_seed_decides_whatever_draws(tmp_path: Path) -> None:
    drawing = {
        "prompt_pool",
        "dataset",
        "sft_checkpoint",
        "completion_pool",
        "reward_model",
        "hardness",
        "policy_checkpoint",
        "benchmark",
    }
    assert _changed(_config(tmp_path), _config(tmp_path, {"seed": 1})) == drawing


def test_an_algorithm_version_makes_its_stage_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path)
    nodes = build_graph(config).nodes
    before = {name: code_version(node, config) for name, node in nodes.items()}
    monkeypatch.setitem(STAGES, "hardness", dataclasses.replace(STAGES["hardness"], version="other"))
    changed = {name for name, node in nodes.items() if code_version(node, config) != before[name]}
    assert changed == {f"hardness_{c}" for c in SEVEN_CATEGORIES}


# ------------------------------------------------------------------------------------------- files that settings only name


def test_the_categories_of_a_taxonomy_decide_what_reads_them_and_its_path_does_not(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("categories: [left, right]")
    (tmp_path / "two.yaml").write_text("# the same\ncategories:\n- left\n- right\n")
    one, two = (_config(tmp_path, {"prompts.taxonomy": str(tmp_path / f"{name}.yaml")}) for name in ("one", "two"))
    before = {name: code_version(node, one) for name, node in build_graph(one).nodes.items()}
    assert _changed(one, two) == set()
    (tmp_path / "one.yaml").write_text("categories: [left, right, middle]")
    nodes = build_graph(one).nodes
    assert {nodes[n].stage for n, version in before.items() if code_version(nodes[n], one) != version} == {
        "prompt_pool",
        "dataset",
        "report",
    }


def test_a_changed_layout_makes_the_pools_stale_that_are_read_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by_it = _config(
        tmp_path, {"prompts.sources": [{"name": "a", "path": "/x/data_en.csv", "adapter": "do_not_answer"}]}
    )
    dropped = _config(tmp_path, {"operations.inbox": {"folder": str(tmp_path / "drop"), "adapter": "do_not_answer"}})
    configs = (read_by_it, dropped, _config(tmp_path))
    before = [{name: code_version(node, c) for name, node in build_graph(c).nodes.items()} for c in configs]
    known = dict(layouts.load_layouts())
    changed = dataclasses.replace(
        known["do_not_answer"], labels={**known["do_not_answer"].labels, "Adult Content": "insult"}
    )
    monkeypatch.setattr(layouts, "load_layouts", lambda: {**known, "do_not_answer": changed})
    after = [{name: code_version(node, c) for name, node in build_graph(c).nodes.items()} for c in configs]
    assert [{name for name in old if old[name] != new[name]} for old, new in zip(before, after, strict=True)] == [
        {"prompt_pool"}, {"prompt_pool"}, set(),
    ]  # fmt: skip


def test_a_new_reader_makes_stale_what_is_made_from_files_of_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, dict[str, Any]] = {
        "prompts": {"prompts.sources": [{"name": "a", "path": "/x/a.csv"}]},
        "drop folder": {"operations.inbox": {"folder": str(tmp_path / "drop")}},
        "demonstrations": {"demonstrations.demonstrator.source": {"name": "d", "path": "/x/d.csv"}},
        "helpful": {"demonstrations.helpful": {"name": "h", "path": "/x/h.csv"}},
        "declared suite": {"benchmarks.suites": [{"name": "xstest", "path": "/x/xstest"}]},
        "own suite": {"benchmarks.suites": [{"name": "mine", "path": "/x/mine"}]},
        "shipped": {"benchmarks.suites": [{"name": "embedded"}, {"name": "twins"}]},
    }
    configs = {name: _config(tmp_path, settings) for name, settings in own.items()}
    nodes = {name: build_graph(config).nodes.values() for name, config in configs.items()}
    before = {name: {n.name: code_version(n, configs[name]) for n in nodes[name]} for name in own}
    for module in ("drirl_core.prompts.layouts", "drirl_core.benchmarks.declared", "drirl_core.files.version"):
        monkeypatch.setattr(f"{module}.READER", "next")
    stale = {
        name: {n.stage for n in nodes[name] if code_version(n, configs[name]) != before[name][n.name]} for name in own
    }
    assert stale == {
        "prompts": {"prompt_pool"},
        "drop folder": {"prompt_pool", "dataset"},
        "demonstrations": {"dataset"},
        "helpful": {"dataset"},
        "declared suite": {"benchmark"},  # the training data depend on what the suite keeps out of them
        "own suite": {"benchmark"},
        "shipped": set(),
    }


def test_what_a_suite_keeps_out_is_worked_out_again_by_a_new_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key under which the answer is kept holds these contents."""
    suites = [{"name": "mine", "path": "/x/mine"}, {"name": "xstest", "path": "/x/xstest"}, {"name": "embedded"}]
    config = _config(tmp_path, {"benchmarks.suites": suites})
    before = contents(config, ("benchmarks.suites",))
    monkeypatch.setattr("drirl_core.benchmarks.declared.READER", "next")
    after = contents(config, ("benchmarks.suites",))
    assert {name for name in before if before[name] != after[name]} == {
        "reader of suite mine",
        "declaration of suite xstest",
    }


def test_the_date_in_the_folders_of_a_kubernetes_mount_is_no_content(tmp_path: Path) -> None:
    versions = []
    for date in ("..2024_05_01", "..2024_06_01"):
        folder = tmp_path / f"mount{date}"
        (folder / date).mkdir(parents=True)
        (folder / date / "a.csv").write_text("prompt\nx\n")
        (folder / "..data").symlink_to(date)
        (folder / "a.csv").symlink_to(Path("..data") / "a.csv")
        versions.append(source_version(folder))
    assert versions[0] == versions[1]
    (tmp_path / "mount..2024_06_01" / "..2024_06_01" / "a.csv").write_text("prompt\ny\n")
    assert source_version(tmp_path / "mount..2024_06_01") != versions[0]


def test_a_changed_declaration_of_a_suite_makes_stale_what_reads_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path)
    nodes = build_graph(config).nodes
    before = {name: code_version(node, config) for name, node in nodes.items()}
    known = declared.declarations()
    changed = {**known, "embedded": {**known["embedded"], "version": "next"}}
    monkeypatch.setattr(declared, "declarations", lambda: changed)
    stale = {node.stage for name, node in nodes.items() if code_version(node, config) != before[name]}
    assert stale == {"benchmark"}


def _model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


READERS = {
    "models.policy": {"sft_checkpoint", "completion_pool", "reward_model", "policy_checkpoint", *EXAMINATION},
    "models.encoder": {"prompt_pool", "hardness", "policy_checkpoint"},
    "demonstrations.demonstrator.model": {"dataset"},
}


@pytest.mark.parametrize("setting", READERS)
def test_replaced_weights_make_stale_what_loads_them(tmp_path: Path, setting: str) -> None:
    there = {setting: f"path:{_model(tmp_path / 'model')}"}
    if setting.startswith("demonstrations"):
        there["demonstrations.demonstrator.kind"] = "model"
    config = _config(tmp_path, there)
    nodes = build_graph(config).nodes
    before = {name: code_version(node, config) for name, node in nodes.items()}
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "model" / "README.md").write_text("notes")
    assert {name: code_version(node, config) for name, node in nodes.items()} == before
    _model(tmp_path / "model", b"WEIGHTS")
    assert {node.stage for name, node in nodes.items() if code_version(node, config) != before[name]} == READERS[
        setting
    ]


@pytest.mark.parametrize("how", ["missing", "a file", "damaged"])
def test_a_model_that_cannot_be_read_is_no_error_until_it_is_needed(tmp_path: Path, how: str) -> None:
    if how == "a file":
        (tmp_path / "model").write_text("x")
    if how == "damaged":
        (_model(tmp_path / "model") / "manifest.json").write_text("{")
    config = _config(tmp_path, {"models.policy": f"path:{tmp_path}/model"})
    assert all(code_version(node, config) for node in build_graph(config).nodes.values())


def test_the_same_configuration_in_another_checkout_gives_the_same_versions(tmp_path: Path) -> None:
    configs = []
    for folder in (tmp_path / "here", tmp_path / "there" / "deep"):
        _model(folder / "model")
        (folder / "taxonomy.yaml").write_text("categories: [left, right]")
        settings = {
            "models": {"policy": "path:model", "encoder": "path:model"},
            "prompts": {"taxonomy": "taxonomy.yaml", "sources": [{"name": "own", "path": "own.csv"}]},
            "demonstrations": {
                "helpful": {"name": "h", "path": "data/h.csv"}, "refusals": {"name": "r", "path": "r.csv"},
                "demonstrator": {"kind": "model", "model": "path:model", "source": {"name": "d", "path": "d.csv"}},
            },
            "benchmarks": {"suites": [{"name": "embedded"}, {"name": "red_team", "path": "suite"}]},
            "operations": {"inbox": {"folder": "drop"}},
        }  # fmt: skip
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
        configs.append(load_config(folder / "run.yaml"))
    assert configs[0] != configs[1]
    assert _changed(*configs) == set()


def test_a_file_of_another_kind_is_read_another_way(tmp_path: Path) -> None:
    csv, jsonl = (
        _config(tmp_path, {"prompts.sources": [{"name": "own", "path": f"/x/own.{kind}"}]}) for kind in ("csv", "jsonl")
    )
    assert _changed(csv, jsonl) == {"prompt_pool"}
