"""The code location: what it shows, what each asset has, and that loading it stays fast."""

import json
import os
import subprocess
import sys
import tomllib

import dagster as dg
import pytest
from paths import ROOT

from drirl_core.graph.stages import STAGES
from drirl_core.taxonomy import HELPFUL, SEVEN_CATEGORIES
from pipeline import definitions
from pipeline.executors.gpu_spec import GPU_POOL
from pipeline.instance.settings import load
from pipeline.wiring.factories import all_definitions
from pipeline.wiring.freshness import OBSERVED_RECENTLY
from pipeline.wiring.private import TESTED_VERSION
from pipeline.wiring.promoting import PROMOTED

HEAVY_LIBRARIES = [
    "torch",
    "transformers",
    "trl",
    "peft",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
    "pyarrow",
    "numpy",
    "datasets",
    "sentence_transformers",
    "ray",
    "dagster_ray",
    "kubernetes",
    "dagster_k8s",
]
EIGHT = [*SEVEN_CATEGORIES, HELPFUL]


@pytest.fixture(scope="module")
def demo():
    """The demo's project."""
    return load("configs/demo.yaml")


@pytest.fixture(scope="module")
def location():
    """The definitions as Dagster loads them, for the demo."""
    before = os.environ.pop("DRIRL_CONFIG", None)
    try:
        yield definitions.defs()
    finally:
        if before is not None:
            os.environ["DRIRL_CONFIG"] = before


def _assets(defs: dg.Definitions) -> list[dg.AssetSpec]:
    return list(defs.resolve_all_asset_specs())


def _made(defs: dg.Definitions) -> list[dg.AssetSpec]:
    return [spec for spec in _assets(defs) if spec.key in defs.resolve_asset_graph().materializable_asset_keys]


def _steps(defs: dg.Definitions) -> dict[str, dg.AssetsDefinition]:
    return {
        asset.op.name: asset
        for asset in defs.assets or []
        if isinstance(asset, dg.AssetsDefinition) and asset.is_executable
    }


def test_a_fresh_process_loads_the_location_without_a_heavy_library():
    code = (
        "import json, sys, pipeline.definitions as d; d.defs().get_repository_def(); "
        f"print(json.dumps([name for name in {HEAVY_LIBRARIES!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []


def test_the_graph_has_one_asset_per_stage_and_category(location):
    keys = {spec.key.to_user_string() for spec in _assets(location)}

    assert keys == {
        *(
            "source_unsafe_prompts",
            "source_helpful",
            "source_refusals",
            "source_demonstrations",
            "source_suite_embedded",
            "source_suite_twins",
        ),
        "retraining_plan",
        *(
            "prompt_pool",
            "balance_report",
            "sft_checkpoint",
            "policy_checkpoint",
            "reference_classifiers",
            *("benchmark_embedded", "benchmark_twins"),
            "report",
            "model_card",
        ),
        *("promotion_candidate", "promoted_policy"),
        *(f"safety_dataset_{c}" for c in SEVEN_CATEGORIES),
        "helpful_dataset",
        *(f"completion_pool_{c}" for c in EIGHT),
        *(f"reward_model_{c}" for c in EIGHT),
        *(f"hardness_{c}" for c in SEVEN_CATEGORIES),
    }


def test_each_asset_has_description_kind_and_owner(location):
    for spec in _assets(location):
        assert spec.group_name in {"operations", *(stage.group for stage in STAGES.values())}, spec.key
        assert spec.description, spec.key
        assert spec.kinds, spec.key
        assert list(spec.owners) == ["team:drirl"], spec.key


def test_each_built_asset_has_its_code_version_and_condition(location):
    for spec in _made(location):
        assert spec.code_version, spec.key
        assert spec.automation_condition is not None, spec.key


def test_heavy_steps_wait_for_the_gpu_and_are_retried(location, demo):
    graph = demo.graph
    heavy = {node.name for node in graph.nodes.values() if STAGES[node.stage].heavy}
    for name, step in _steps(location).items():
        if name.startswith("observe_"):
            continue
        members = {key.to_user_string() for key in step.keys}
        expected = members <= heavy
        assert (step.op.pool == GPU_POOL) is expected, name
        assert (step.op.retry_policy is not None) is expected, name
        assert expected or not members & heavy, name


def test_the_categories_of_a_stage_share_a_step_or_not_as_the_configuration_says(demo):
    together, apart = (
        _steps(all_definitions(c)) for c in (demo, load("configs/demo.yaml", {"execution.category_steps": "apart"}))
    )

    assert {key.to_user_string() for key in together["reward_model_by_category"].keys} == {
        f"reward_model_{c}" for c in EIGHT
    }
    assert "reward_model_by_category" not in apart
    assert [key.to_user_string() for key in apart["reward_model_insult"].keys] == ["reward_model_insult"]
    assert {key for step in together.values() for key in step.keys} == {
        key for step in apart.values() for key in step.keys
    }


def test_each_category_depends_only_on_its_own_inputs(location):
    spec = next(spec for spec in _made(location) if spec.key.to_user_string() == "hardness_insult")

    assert {dep.asset_key.to_user_string() for dep in spec.deps} == {
        "safety_dataset_insult",
        "completion_pool_insult",
        "reward_model_insult",
    }


def test_a_setting_changes_only_the_code_version_of_its_own_stage(demo):
    before, after = (
        {s.key: s.code_version for s in _made(all_definitions(c))}
        for c in (demo, load("configs/demo.yaml", {"rewards.epochs": 7}))
    )
    changed = {key.to_user_string() for key in before if before[key] != after[key]}

    assert changed == {f"reward_model_{c}" for c in EIGHT}


def test_the_folder_holds_what_the_factories_make(location, demo):
    made = all_definitions(demo)

    # A run by hand does not promote, does not plan, and does not check that the sources are observed.
    made_elsewhere = {dg.AssetKey(PROMOTED), dg.AssetKey("retraining_plan")}
    asked_elsewhere = {dg.AssetCheckKey(dg.AssetKey(name), OBSERVED_RECENTLY) for name in demo.graph.sources}
    assert {s.key for s in _assets(made)} | made_elsewhere == {s.key for s in _assets(location)}
    assert (
        made.resolve_asset_graph().asset_check_keys | asked_elsewhere == location.resolve_asset_graph().asset_check_keys
    )


def test_dagsters_own_loader_finds_the_same_definitions(location):
    if "dg" not in tomllib.loads((ROOT / "pyproject.toml").read_text()).get("tool", {}):
        pytest.skip("pyproject.toml has no [tool.dg]")
    loaded = dg.load_from_defs_folder(path_within_project=ROOT / "pipeline")

    assert loaded.resolve_asset_graph().get_all_asset_keys() == location.resolve_asset_graph().get_all_asset_keys()
    assert {s.name for s in loaded.sensors or []} == {s.name for s in location.sensors or []}


def test_blocking_checks_guard_data_rewards_and_policy_and_benchmarks_only_warn(location):
    graph = location.resolve_asset_graph()
    blocking = {key for key in graph.asset_check_keys if graph.get(key).blocking}

    def names(asset: str, among) -> set[str]:
        return {key.name for key in among if key.asset_key == dg.AssetKey(asset)}

    assert names("prompt_pool", blocking) == {"not_empty", "nothing_lost", "rows_usable"}
    assert names("safety_dataset_insult", blocking) == {"schema", "no_split_leakage", "class_balance", "rows_usable"}
    assert names("reward_model_helpful", blocking) == {"within_group", "accuracy_floor", "reward_spread"}
    assert names("policy_checkpoint", blocking) == {"finite", "kl_bound"}
    assert names("benchmark_embedded", blocking) == set()
    assert names("benchmark_embedded", graph.asset_check_keys) == {
        "over_refusal",
        "refusal_floor",
        "helpfulness_kept",
        "babble",
    }


def test_automation_is_on_and_covers_every_asset_from_the_user_code(location):
    sensor = location.resolve_sensor_def("retrain_when_inputs_or_code_changed")
    graph = location.resolve_asset_graph()

    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.sensor_type.value == "AUTOMATION"  # the one that evaluates in the user's code
    assert sensor.asset_selection.resolve(graph) >= graph.materializable_asset_keys


def test_alerts_on_failed_runs_are_on_and_a_drop_folder_adds_its_sensor(location, tmp_path, monkeypatch):
    assert location.resolve_sensor_def("alert_on_failed_runs").default_status is dg.DefaultSensorStatus.RUNNING
    assert "ingest_dropped_files" not in {s.name for s in location.sensors}

    (tmp_path / "with_inbox.yaml").write_text(
        f"extends: {ROOT}/configs/demo.yaml\noperations: {{inbox: {{folder: drop}}}}\n"
    )
    monkeypatch.setenv("DRIRL_CONFIG", str(tmp_path / "with_inbox.yaml"))
    watched = definitions.defs()
    sensor = watched.resolve_sensor_def("ingest_dropped_files")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
    assert {s.key.to_user_string() for s in _assets(watched)} == {s.key.to_user_string() for s in _assets(location)} | {
        "source_inbox"
    }


def test_schedules_refresh_what_is_stale_and_observe_the_sources(location):
    weekly = location.resolve_schedule_def("refresh_stale_assets_weekly")
    nightly = location.resolve_schedule_def("observe_sources_nightly")
    assert weekly.default_status is nightly.default_status is dg.DefaultScheduleStatus.RUNNING
    observed = location.resolve_job_def("observe_sources").asset_layer.executable_asset_keys
    assert {key.to_user_string() for key in observed} == {s.key.to_user_string() for s in _assets(location)} - {
        s.key.to_user_string() for s in _made(location)
    }


def test_the_weekly_run_refreshes_what_is_stale_and_nothing_that_was_never_built(location, tmp_path):
    instance = dg.DagsterInstance.local_temp(str(tmp_path))
    weekly = location.resolve_schedule_def("refresh_stale_assets_weekly")
    fresh = weekly.evaluate_tick(dg.build_schedule_context(instance=instance))
    assert not fresh.run_requests
    assert "start the first run" in fresh.skip_message

    for name in ("prompt_pool", "report"):
        instance.report_runless_asset_event(dg.AssetMaterialization(name))
    (request,) = weekly.evaluate_tick(dg.build_schedule_context(instance=instance)).run_requests
    assert request.stale_assets_only
    assert {key.to_user_string() for key in request.asset_selection} == {"prompt_pool", "report"}


def test_no_module_that_dagster_reads_postpones_annotations():
    folders = [ROOT / "pipeline" / name for name in ("defs", "executors", "instance", "running", "wiring")]
    files = [file for folder in folders for file in folder.rglob("*.py")] + [ROOT / "pipeline" / "definitions.py"]

    assert [str(file) for file in files if "from __future__ import annotations" in file.read_text()] == []


def test_private_names_of_dagster_are_used_in_one_guarded_file_only():
    private = "dagster." + "_core"  # joined, so that this file does not mention it
    folders = [ROOT / name for name in ("drirl_core", "pipeline", "tests", "benchmarks", "configs", "docs", ".ci")]
    found = [file for folder in folders for file in folder.rglob("*")] + list(ROOT.iterdir())
    files = [file for file in found if file.is_file() and file.suffix in (".py", ".yaml", ".toml", ".md", "")]
    mentioned = [str(file.relative_to(ROOT)) for file in files if private in file.read_text(errors="replace")]

    assert sorted(mentioned) == ["pipeline/ruff.toml", "pipeline/wiring/private.py"]  # the first one forbids it


def test_the_linter_refuses_a_private_name_anywhere_else_in_the_wiring():
    line = "from dagster." + "_core.events import DagsterEvent\n\nprint(DagsterEvent)\n"
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename"]
    codes = {
        name: subprocess.run(
            [*ruff, str(ROOT / name), "-"], cwd=ROOT, input=line, capture_output=True, text=True, check=False
        ).returncode
        for name in (
            "pipeline/wiring/conditions.py",
            "pipeline/defs/automation.py",
            "drirl_core/graph/stages.py",
            "pipeline/wiring/private.py",
        )
    }

    assert codes == {
        "pipeline/wiring/conditions.py": 1,
        "pipeline/defs/automation.py": 1,
        "drirl_core/graph/stages.py": 1,
        "pipeline/wiring/private.py": 0,
    }


def test_another_dagster_is_refused_with_the_version_that_was_tested():
    code = (
        "import sys, dagster; sys.modules['dagster.' + '_core.definitions.data_version'] = type(sys)('moved')\n"
        "try:\n    import pipeline.wiring.private\nexcept ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("dagster=="))

    assert "was tested with 1.13.27" in said
    assert "CachingStaleStatusResolver" in said
    assert "Install dagster~=1.13.27" in said
    assert pinned == f"dagster=={TESTED_VERSION}"
