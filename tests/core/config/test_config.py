"""Configuration files: what is accepted, what is refused and in which words, and what a hash covers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, from_resolved, load_config, resolved, slice_hash
from drirl_core.errors import ConfigError, DrirlError

MODELS = {"policy": "hf:org/policy", "encoder": "hf:org/encoder@v2"}


def _write(folder: Path, content: dict[str, Any] | str, name: str = "run.yaml") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def _load(folder: Path, sections: dict[str, Any] | None = None, overrides: dict[str, Any] | None = None) -> Config:
    return load_config(_write(folder, {"models": MODELS, **(sections or {})}), overrides)


def test_only_models_are_needed(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert (config.models.policy, config.policy.steps, config.seed) == ("hf:org/policy", 24, 0)
    with pytest.raises(ConfigError, match=r"missing models; there is no default"):
        load_config(_write(tmp_path, {"seed": 1}))
    with pytest.raises(ConfigError, match=r"missing models\.policy, models\.encoder"):
        load_config(_write(tmp_path, {"models": {}}))


def test_unknown_keys_name_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'policy\.step'; did you mean 'steps'\? Known: .*num_generations"
    ):
        _load(tmp_path, {"policy": {"step": 3}})
    with pytest.raises(ConfigError, match=r"unknown key 'polcy'; did you mean 'policy'\?"):
        _load(tmp_path, {"polcy": {}})
    with pytest.raises(ConfigError, match=r"unknown key 'prompts\.sources\[0\]\.file'"):
        _load(tmp_path, {"prompts": {"sources": [{"name": "a", "file": "a.csv"}]}})
    with pytest.raises(ConfigError, match=r"unknown key 'qqqq'; Known: "):
        _load(tmp_path, {"qqqq": 1})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"seed": "one"}, r"seed is 'one' \(str\); give a whole number"),
        ({"seed": True}, r"seed is True \(bool\); give a whole number"),
        ({"seed": 1.5}, r"seed is 1\.5 \(float\); give a whole number"),
        ({"name": 3}, r"name is 3 \(int\); give a text"),
        (
            {"rewards": {"include_demonstration": "yes please"}},
            r"rewards\.include_demonstration is 'yes please' \(str\); give true or false",
        ),
        ({"rewards": {"include_demonstration": 1}}, r"include_demonstration is 1 \(int\); give true or false"),
        ({"rewards": {"beta": "warm"}}, r"rewards\.beta is 'warm'; give a number"),
        ({"rewards": {"layer": 1.5}}, r"rewards\.layer is 1\.5; a share of the depth below 1"),
        ({"rewards": {"layer": 0}}, r"rewards\.layer is 0\.0; a share"),
        ({"rewards": {"ensemble": 0}}, r"rewards\.ensemble is 0; at least 1"),
        ({"rewards": {"ensemble_penalty": -1}}, r"rewards\.ensemble_penalty is -1\.0; at least 0"),
        ({"rewards": {"beta": True}}, r"rewards\.beta is True \(bool\); give a number"),
        ({"rewards": {"beta": [1.0]}}, r"rewards\.beta is \[1\.0\] \(list\); give a number"),
        ({"policy": [1, 2]}, r"policy: expected keys and values, got \[1, 2\]"),
        ({"policy": None}, r"policy: expected keys and values, got None"),
        ({"prompts": {"sources": "a.csv"}}, r"prompts\.sources is 'a\.csv'; give a list"),
        ({"prompts": {"sources": ["a.csv"]}}, r"prompts\.sources\[0\]: expected keys and values"),
        ({"completions": {"samples": 3}}, r"completions\.samples is 3; give keys and values"),
        ({"completions": {"samples": {"base": "two"}}}, r"completions\.samples\.base is 'two'"),
        ({"hardness": {"combine": "sumproduct"}}, r"hardness\.combine is 'sumproduct'; choose one of product, sum"),
        ({"models": {**MODELS, "threads": "4"}}, r"models\.threads is '4' \(str\)"),
    ],
)
def test_wrong_types_are_named(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, sections)


def test_numbers_as_yaml_1_1_reads_them(tmp_path: Path) -> None:
    """`5e-4` (no point) is a string to YAML 1.1; integers are accepted where a float is needed."""
    file = _write(
        tmp_path,
        "models: {policy: 'hf:a/b', encoder: 'hf:c/d'}\nsft: {learning_rate: 5e-4, epochs: 3}\nhardness: {tau: 1e-1}\n",
    )
    config = load_config(file)
    assert config.sft.learning_rate == 0.0005
    assert config.sft.epochs == 3.0
    assert isinstance(config.sft.epochs, float)
    assert config.hardness.tau == 0.1


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "'nan'", "1e999"])
def test_numbers_must_be_finite(tmp_path: Path, value: str) -> None:
    file = _write(tmp_path, f"models: {{policy: 'hf:a/b', encoder: 'hf:c/d'}}\npolicy: {{kl: {value}}}\n")
    with pytest.raises(ConfigError, match=r"policy\.kl is .*; give a finite number"):
        load_config(file)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"policy": {"start": "base"}},
            r"policy\.start is 'base' but completions\.samples asks .*'sft'; set completions\.samples\.sft to 0",
        ),
        (
            {"rewards": {"positives": "both"}, "completions": {"samples": {"base": 2}}},
            r"rewards\.positives is 'both', but completions\.samples asks for no completions of the SFT start",
        ),
        ({"policy": {"micro_batch": 5}}, r"micro_batch 5 does not divide prompts_per_step 8 x num_generations 4 = 32"),
        ({"policy": {"num_generations": 1}}, r"num_generations is 1; a group needs at least 2"),
        ({"policy": {"helpful_share": 1.0}}, r"helpful_share is 1\.0; choose in \[0, 1\)"),
        ({"policy": {"temperature": 0}}, r"policy\.temperature is 0\.0; above 0"),
        ({"policy": {"learning_rate": 0}}, r"policy\.learning_rate is 0\.0; above 0"),
        ({"policy": {"lora": {"rank": 4, "targets": []}}}, r"lora\.targets is empty"),
        ({"models": {**MODELS, "policy": "org/name"}}, r"models\.policy is 'org/name'; start it with hf:"),
        ({"prompts": {"sources": []}}, r"prompts\.sources is empty"),
        ({"prompts": {"sources": [{"name": "a", "path": "x.csv"}] * 2}}, r"names repeat: \['a', 'a'\]"),
        ({"prompts": {"sources": [{"name": "Big", "path": "x.csv"}]}}, r"source name 'Big': use lower-case"),
        (
            {"prompts": {"sources": [{"name": "helpful", "path": "x.csv"}]}},
            r"two sources are called 'helpful': .*x\.csv and embedded; give each",
        ),
        (
            {"demonstrations": {"validation_fraction": 0.5, "test_fraction": 0.4}},
            r"leave at least a tenth for training",
        ),
        ({"demonstrations": {"quota": 3}}, r"quota is 3; use 0 \(every row\), or at least 4"),
        (
            {"demonstrations": {"category_quota": {"insult": 3}}},
            r"category_quota\.insult is 3; use 0 \(every row\), or at",
        ),
        (
            {"demonstrations": {"category_quota": {"insult": 2.5}}},
            r"category_quota\.insult is 2\.5 \(float\); give a whole",
        ),
        ({"demonstrations": {"helpful_quota": -1}}, r"helpful_quota is -1; use 0"),
        ({"demonstrations": {"demonstrator": {"kind": "endpoint", "model": "m"}}}, r"also set `url`"),
        ({"demonstrations": {"demonstrator": {"kind": "model"}}}, r"also set `model`"),
        ({"completions": {"samples": {"base": 0, "sft": 0}}}, r"ask for at least one completion"),
        ({"completions": {"samples": {"other": 1}}}, r"unknown policy \['other'\]; use base and sft"),
        ({"completions": {"contrast": {"rude": 1}}}, r"unknown kind \['rude'\]"),
        ({"completions": {"contrast": {"refusal": -1}}}, r"counts are 0 or more"),
        ({"hardness": {"sharpness": 0.5}}, r"sharpness is 0\.5; at least 1"),
        ({"benchmarks": {"suites": []}}, r"suites is empty"),
        ({"benchmarks": {"suites": [{"name": "x", "path": "a"}, {"name": "x", "path": "b"}]}}, r"suites: names repeat"),
        ({"rewards": {"rounds": 0}}, r"rewards\.rounds is 0; 1 \(rewards are learned once\) to 5"),
        ({"rewards": {"rounds": 6}}, r"rewards\.rounds is 6; 1 \(rewards are learned once\) to 5"),
        ({"rewards": {"rounds": 2, "round_samples": 0}}, r"rewards\.round_samples is 0; at least 1"),
        (
            {"rewards": {"rounds": 2}, "policy": {"reward": "verifiable"}},
            r"rounds is 2, but policy\.reward is 'verifiable' and no learned reward trains the policy; set rewards\.rounds",
        ),
        ({"seed": -1}, r"seed is -1"),
        (
            {"operations": {"inbox": {"folder": ""}}},
            r"operations\.inbox\.folder is ''; name a directory, or leave it out",
        ),
        ({"operations": {"inbox": {"max_bytes": 0}}}, r"operations\.inbox\.max_bytes is 0; at least 1"),
        ({"operations": {"inbox": {"settle_s": -1}}}, r"operations\.inbox\.settle_s is -1\.0; 0 or more"),
        (
            {"prompts": {"sources": [{"name": "inbox", "path": "x.csv"}]}, "operations": {"inbox": {"folder": "drop"}}},
            r"a source is called 'inbox', which is the name of the drop folder",
        ),
        ({"operations": {"alerts": {"hooks": [{"kind": "file"}]}}}, r"a hook of kind 'file' needs a `path`"),
        (
            {"operations": {"alerts": {"hooks": [{"kind": "webhook"}]}}},
            r"needs in `url_env` the NAME of an environment variable",
        ),
        (
            {"operations": {"alerts": {"hooks": [{"kind": "webhook", "url_env": "https://x/secret"}]}}},
            r"^((?!secret).)*the NAME of an environment variable((?!secret).)*$",
        ),
    ],
)
def test_contradictions_are_found_before_anything_loads(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, sections)


def test_base_start_without_sft_samples_is_fine(tmp_path: Path) -> None:
    config = _load(tmp_path, {"policy": {"start": "base"}, "completions": {"samples": {"base": 2}}})
    assert config.policy.start == "base"


def test_extends_merges_deeply_and_the_nearer_file_wins(tmp_path: Path) -> None:
    _write(tmp_path, {"models": MODELS, "seed": 3, "policy": {"steps": 5, "kl": 0.5}}, "ground.yaml")
    _write(tmp_path, {"extends": "ground.yaml", "policy": {"steps": 6}}, "middle.yaml")
    (tmp_path / "sub").mkdir()
    top = _write(tmp_path / "sub", {"extends": "../middle.yaml", "name": "top", "policy": {"epsilon": 0.3}})
    config = load_config(top)
    assert (config.name, config.seed) == ("top", 3)
    assert (config.policy.steps, config.policy.kl, config.policy.epsilon) == (6, 0.5, 0.3)


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, {"extends": "b.yaml"}, "a.yaml")
    _write(tmp_path, {"extends": "a.yaml"}, "b.yaml")
    with pytest.raises(ConfigError, match="circle"):
        load_config(tmp_path / "a.yaml")


def test_extends_takes_one_file_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"extends is \['a\.yaml'\]; give the name of one file"):
        load_config(_write(tmp_path, {"extends": ["a.yaml"]}))


def test_overrides_come_last(tmp_path: Path) -> None:
    overrides = {"policy.steps": 4, "policy.lora.rank": 2, "seed": 7, "completions.samples": {"base": 3}}
    config = _load(tmp_path, {"policy": {"steps": 9}}, overrides)
    assert (config.policy.steps, config.policy.lora.rank, config.seed, dict(config.completions.samples)) == (
        4,
        2,
        7,
        {"base": 3},
    )
    assert overrides["completions.samples"] == {"base": 3}  # left as it was


def test_overrides_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'policy\.stpes'; did you mean 'steps'"):
        _load(tmp_path, overrides={"policy.stpes": 4})
    with pytest.raises(ConfigError, match=r"override 'seed\.value': 'seed' is not a section"):
        _load(tmp_path, {"seed": 1}, {"seed.value": 4})


def test_paths_are_taken_from_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ground").mkdir()
    (tmp_path / "elsewhere").mkdir()
    _write(
        tmp_path / "ground",
        {
            "models": {"policy": "path:weights", "encoder": "hf:org/encoder"},
            "prompts": {
                "taxonomy": "mine.yaml",
                "sources": [{"name": "a", "path": "a.csv"}, {"name": "b", "path": "embedded"}],
            },
        },
        "ground.yaml",
    )
    top = _write(
        tmp_path, {"extends": "ground/ground.yaml", "demonstrations": {"helpful": {"name": "h", "path": "h.jsonl"}}}
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(
        top, {"models.encoder": "path:given", "benchmarks.suites": [{"name": "s", "path": "rows.csv"}]}
    )
    assert config.models.policy == f"path:{tmp_path}/ground/weights"
    assert config.prompts.taxonomy == f"{tmp_path}/ground/mine.yaml"
    assert [source.path for source in config.prompts.sources] == [f"{tmp_path}/ground/a.csv", "embedded"]
    assert config.demonstrations.helpful.path == f"{tmp_path}/h.jsonl"
    # What is given on the command line counts from where the command was given.
    assert config.models.encoder == f"path:{tmp_path}/elsewhere/given"
    assert config.benchmarks.suites[0].path == f"{tmp_path}/elsewhere/rows.csv"


def test_files_behind_links_keep_the_name_that_the_user_wrote(tmp_path: Path) -> None:
    """As the hub's cache, DVC and Kubernetes keep files: the name says how a file is read, what it points to does not."""
    store = tmp_path / "store" / "..2024_05_01"
    store.mkdir(parents=True)
    (store / "0a1b2c").write_text("prompt\nx\n")
    (tmp_path / "..data").symlink_to(store)
    (tmp_path / "prompts.csv").symlink_to(Path("..data") / "0a1b2c")
    (tmp_path / "weights").symlink_to(store)
    config = _load(
        tmp_path,
        {
            "models": {"policy": "path:weights", "encoder": "path:./weights/../weights"},
            "prompts": {"sources": [{"name": "a", "path": "prompts.csv"}, {"name": "b", "path": "..data/0a1b2c"}]},
            "benchmarks": {"suites": [{"name": "s", "path": "deep/../weights"}]},
            "operations": {"inbox": {"folder": "weights"}},
        },
    )
    assert [source.path for source in config.prompts.sources] == [
        f"{tmp_path}/prompts.csv",
        f"{tmp_path}/..data/0a1b2c",
    ]
    assert config.models.policy == f"path:{tmp_path}/weights"
    assert config.benchmarks.suites[0].path == f"{tmp_path}/weights"
    assert config.operations.inbox.folder == f"{tmp_path}/weights"
    # `..` after a link leads to the parent of what it points to.
    assert Path(config.models.encoder.removeprefix("path:")) == tmp_path / "weights" / ".." / "weights"


def test_settings_behind_a_link_find_the_files_beside_either_of_their_places(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "base.yaml").write_text("name: of the base\n")
    (there / "near.csv").write_text("prompt\nx\n")
    (tmp_path / "own.csv").write_text("prompt\nx\n")
    sources = [{"name": n, "path": f"{n}.csv"} for n in ("near", "own", "gone")]
    _write(there, {"models": MODELS, "extends": "base.yaml", "prompts": {"sources": sources}}, "real.yaml")
    (tmp_path / "run.yaml").symlink_to(there / "real.yaml")
    config = load_config(tmp_path / "run.yaml")
    assert config.name == "of the base"
    assert [source.path for source in config.prompts.sources] == [
        f"{there}/near.csv",
        f"{tmp_path}/own.csv",
        f"{tmp_path}/gone.csv",
    ]


def test_a_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    _write(tmp_path, {}, "demo.yaml")
    _write(tmp_path, {}, "smoke.yaml")
    with pytest.raises(ConfigError, match=r"dmeo\.yaml does not exist; files there: demo\.yaml, smoke\.yaml"):
        load_config(tmp_path / "dmeo.yaml")
    with pytest.raises(ConfigError, match=r"files there: none"):
        load_config(tmp_path / "nowhere" / "demo.yaml")


@pytest.mark.parametrize("content", ["a: [1,\n", "\tseed: 1", "a: b: c", "x: &a [*b]"])
def test_what_is_not_yaml_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(_write(tmp_path, content))


@pytest.mark.parametrize(("content", "kind"), [("", "NoneType"), ("- a\n- b\n", "list"), ("hello", "str")])
def test_yaml_of_another_shape_is_refused(tmp_path: Path, content: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"must hold keys and values, not {kind}"):
        load_config(_write(tmp_path, content))


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "run.yaml")


def test_python_tags_are_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(ConfigError):
        load_config(_write(tmp_path, f"name: !!python/object/apply:pathlib.Path.touch ['{marker}']"))
    assert not marker.exists()


def test_folders_and_files_of_operations_start_at_the_file_that_names_them(tmp_path: Path) -> None:
    hooks = [{"kind": "file", "path": "logs/alerts.jsonl"}, {"kind": "webhook", "url_env": "ALERT_URL"}]
    config = _load(tmp_path, {"operations": {"inbox": {"folder": "drop"}, "alerts": {"hooks": hooks}}})
    assert config.operations.inbox.folder == str(tmp_path / "drop")
    assert config.operations.alerts.hooks[0].path == str(tmp_path / "logs" / "alerts.jsonl")
    assert [source.name for source in config.prompt_sources] == ["unsafe_prompts", "inbox"]
    assert config.prompt_sources[-1].path == str(tmp_path / "drop" / "accepted")
    assert _load(tmp_path).prompt_sources == _load(tmp_path).prompts.sources


def test_resolved_and_back(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        {
            "hardness": {"tau": 0.25},
            "prompts": {"sources": [{"name": "a", "path": "a.csv", "columns": {"prompt": "text"}}]},
        },
        {"policy.lora.targets": ["q_proj"]},
    )
    data = resolved(config)
    assert json.loads(json.dumps(data)) == data
    assert yaml.safe_load(yaml.safe_dump(data)) == data
    assert from_resolved(data) == config
    assert resolved(from_resolved(data)) == data


def test_slice_hash_covers_its_sections_and_nothing_else(tmp_path: Path) -> None:
    config = _load(tmp_path)
    sections = ("rewards", "seed", "models.encoder")
    before = slice_hash(config, sections)
    assert len(before) == 12
    assert int(before, 16) >= 0
    same = [
        dataclasses.replace(config, name="other"),
        dataclasses.replace(config, policy=dataclasses.replace(config.policy, steps=3)),
        dataclasses.replace(config, models=dataclasses.replace(config.models, policy="hf:x/y")),
    ]
    assert {slice_hash(other, sections) for other in same} == {before}
    different = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, rewards=dataclasses.replace(config.rewards, beta=2.0)),
        dataclasses.replace(config, models=dataclasses.replace(config.models, encoder="hf:x/y")),
    ]
    assert len({before, *(slice_hash(other, sections) for other in different)}) == 4


def test_slice_hash_takes_lists_of_sections_and_survives_the_round_trip(tmp_path: Path) -> None:
    config = _load(tmp_path)
    again = from_resolved(resolved(config))
    for sections in (("prompts", "benchmarks.suites"), ("completions",), ("name",)):
        assert slice_hash(again, sections) == slice_hash(config, sections)
    limited = _load(tmp_path, {"benchmarks": {"suites": [{"name": "embedded", "limit": 3}]}})
    assert slice_hash(limited, ("benchmarks.suites",)) != slice_hash(config, ("benchmarks.suites",))


def test_configurations_cannot_be_changed(tmp_path: Path) -> None:
    config = _load(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]


def test_config_errors_are_printed_without_a_traceback() -> None:
    """The command line catches DrirlError; callers of the library may catch ValueError."""
    assert issubclass(ConfigError, DrirlError)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("name", ["demo.yaml", "smoke.yaml"])
def test_shipped_configurations_load(name: str) -> None:
    config = load_config(Path(__file__).parents[3] / "configs" / name)
    assert config.name == name.removesuffix(".yaml")


def test_the_smoke_configuration_is_the_tiny_one() -> None:
    """configs/smoke.yaml and drirl_core.testing.tiny_settings must not drift apart, but for the directories."""
    from drirl_core.testing import tiny_settings

    folder = Path(__file__).parents[3] / ".drirl" / "smoke"
    smoke = load_config(Path(__file__).parents[3] / "configs" / "smoke.yaml")
    tiny = tiny_settings(folder / "policy", folder / "encoder", Path(".drirl/smoke/artifacts"))
    tiny["models"].pop("device")
    assert from_resolved(tiny) == smoke


def test_a_setting_that_came_later_changes_no_version_until_it_is_used(tmp_path: Path) -> None:
    """Artifacts made before the setting existed stay up to date under its default, which does what was done then."""
    before = _load(tmp_path)
    data = resolved(before)["policy"]
    later = (
        "scale_rewards",
        "over_refusal",
        "over_refusal_step",
        "validation_prompts",
        "reward",
        "seed",
        "trl",
        "rloo_trl",
        "min_spread",
        "own_rewards",
        "order",
        "stages",
        "renew_reference",
        "draw",
        "share_lower_layers",
    )
    for name in later:
        del data[name]
    del data["lora"]["first_layer"]
    known = hashlib.sha256(json.dumps({"policy": data}, sort_keys=True).encode()).hexdigest()[:12]
    changed = _load(tmp_path, {"policy": {"scale_rewards": "none"}})
    nested = _load(tmp_path, {"policy": {"lora": {"first_layer": 0.5}}})
    assert slice_hash(before, ("policy",)) == known
    assert len({known, slice_hash(changed, ("policy",)), slice_hash(nested, ("policy",))}) == 3
