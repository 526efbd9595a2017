"""What a run would do, computed from the store without Dagster, with the reason for each asset."""

import json
import shutil
import subprocess
import sys

import pytest
import stub_stages
from paths import ROOT

from drirl_core.checks.asking import broken_promises
from drirl_core.errors import ConfigError, DataError
from drirl_core.graph.build import run_all
from drirl_core.graph.plan import plan
from drirl_core.graph.stages import STAGES
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load


@pytest.fixture
def made(stubbed, project):
    """A project whose complete graph is built."""
    run_all(project, SilentReporter())
    return project


def _states(planned) -> dict[str, set[str]]:
    states: dict[str, set[str]] = {}
    for asset in planned.assets.values():
        states.setdefault(asset.state, set()).add(asset.name)
    return states


def test_at_first_everything_has_to_be_built(project):
    planned = plan(project)

    assert _states(planned) == {"will_run": set(project.graph.nodes)}
    assert {asset.why for asset in planned.assets.values()} == {"not made yet"}
    assert not planned.up_to_date


def test_after_a_run_nothing_is_left_to_do(made):
    planned = plan(made)

    assert planned.up_to_date
    assert planned.pending == []
    assert planned.assets["report"].version == made.store.latest("report").version


def test_after_a_changed_source_its_reader_will_run_and_the_rest_may_run(made, tmp_path):
    (tmp_path / "unsafe.jsonl").write_text("insult: you\nharm: them\nharm: us\n")
    planned = plan(made)

    assert _states(planned) == {"will_run": {"prompt_pool"}, "may_run": set(planned.assets) - {"prompt_pool"}}
    assert planned.assets["prompt_pool"].why == f"source_unsafe changed: {tmp_path}/unsafe.jsonl"
    assert planned.assets["safety_dataset_harm"].why == "waits for prompt_pool"
    assert planned.assets["safety_dataset_harm"].waits_for == ("prompt_pool",)


def test_a_changed_setting_names_itself_as_the_reason(made, tmp_path):
    planned = plan(load(tmp_path / "stub.yaml", {"hardness.sharpness": 2.0}))

    assert _states(planned)["will_run"] == {
        "hardness_insult",
        "hardness_harm",
        "policy_checkpoint",
    }  # this stage reads them as well
    assert planned.assets["hardness_insult"].why == "hardness.sharpness: 1.0 -> 2.0"
    assert planned.assets["policy_checkpoint"].waits_for == ("hardness_insult", "hardness_harm")
    assert _states(planned)["may_run"] == {"benchmark_embedded", "promotion_candidate", "report", "model_card"}


def test_a_new_algorithm_is_distinguished_from_a_new_setting(made, monkeypatch):
    import dataclasses

    before = STAGES["model_card"].version
    monkeypatch.setitem(STAGES, "model_card", dataclasses.replace(STAGES["model_card"], version="next"))

    assert plan(made).assets["model_card"].why == f"algorithm {before} -> next"


def test_categories_that_came_and_went_are_named(made, tmp_path):
    def planned_for(text):
        (tmp_path / "taxonomy.yaml").write_text(text)
        return plan(load(tmp_path / "stub.yaml"))

    planned = planned_for("categories: [harm, privacy]\n")
    assert planned.assets["prompt_pool"].state == "will_run"
    assert planned.assets["prompt_pool"].why == "prompts.taxonomy: privacy added; insult removed"
    assert planned.assets["safety_dataset_privacy"].why == "not made yet"
    assert planned.assets["safety_dataset_harm"].why == "prompts.taxonomy: privacy added; insult removed"
    swapped = planned_for("categories: [harm, insult]\n")
    assert swapped.assets["prompt_pool"].why == "prompts.taxonomy: other order of the categories"
    assert planned_for("# as it was\ncategories: [insult, harm]\n").up_to_date


def test_replaced_weights_are_named_by_their_setting(stubbed, tmp_path, monkeypatch):
    monkeypatch.setattr("drirl_core.preflight.require_sound", lambda project: None)  # stand-ins for weights are not
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("weights")
    project = load(stub_stages.write_settings(tmp_path), {"models.policy": f"path:{tmp_path}/model"})
    run_all(project, SilentReporter())
    (tmp_path / "model" / "model.safetensors").write_text("other weights")
    planned = plan(project)

    assert planned.assets["sft_checkpoint"].why == "files of models.policy changed"
    assert _states(planned)["will_run"] == {
        "sft_checkpoint", "policy_checkpoint", "reference_classifiers", "benchmark_embedded",
        *(f"{stage}_{c}" for stage in ("completion_pool", "reward_model") for c in ("insult", "harm", "helpful")),
    }  # fmt: skip


def test_a_bound_leaves_everything_up_to_date(made, tmp_path):
    bounds = {
        "checks.max_kl": 5.0,
        "checks.min_accuracy": 0.5,
        "checks.max_over_refusal": 0.9,
        "policy.save_steps": 2,
    }

    assert plan(load(tmp_path / "stub.yaml", bounds)).up_to_date


def test_the_path_of_a_file_is_not_listed_beside_a_real_reason(made, tmp_path):
    (tmp_path / "moved").mkdir()
    (tmp_path / "unsafe.jsonl").rename(tmp_path / "moved" / "unsafe.jsonl")
    source = {"name": "unsafe", "path": str(tmp_path / "moved" / "unsafe.jsonl")}

    assert plan(load(tmp_path / "stub.yaml", {"prompts.sources": [source]})).up_to_date
    why = (
        plan(load(tmp_path / "stub.yaml", {"prompts.sources": [{**source, "licence": "CC0-1.0"}]}))
        .assets["prompt_pool"]
        .why
    )
    assert why == "prompts.sources[unsafe].licence: unknown -> CC0-1.0"


def test_several_reasons_are_all_listed(made, tmp_path, monkeypatch):
    import dataclasses

    before = STAGES["reward_model"].version
    monkeypatch.setitem(STAGES, "reward_model", dataclasses.replace(STAGES["reward_model"], version="next"))
    (tmp_path / "unsafe.jsonl").write_text("insult: you\nharm: them\nharm: us\n")
    planned = plan(load(tmp_path / "stub.yaml", {"rewards.epochs": 7, "seed": 1}))
    causes = planned.assets["reward_model_harm"].causes

    assert planned.assets["reward_model_harm"].why == (
        f"algorithm {before} -> next; rewards.epochs: 60 -> 7; seed: 0 -> 1"
    )
    assert [(cause.kind, cause.what, cause.before, cause.now) for cause in causes] == [
        ("algorithm", "reward_model", before, "next"),
        ("setting", "rewards.epochs", 60, 7),
        ("setting", "seed", 0, 1),
    ]
    assert [str(cause) for cause in planned.assets["prompt_pool"].causes] == [
        f"source_unsafe changed: {tmp_path}/unsafe.jsonl",
        "seed: 0 -> 1",
    ]


def test_settings_in_lists_are_named_by_their_row(made, tmp_path):
    suites = [{"name": "embedded", "limit": 3}, {"name": "own", "path": str(tmp_path / "taxonomy.yaml")}]
    planned = plan(load(tmp_path / "stub.yaml", {"benchmarks.suites": suites}))

    assert planned.assets["benchmark_embedded"].why == "benchmarks.suites[embedded].limit: 0 -> 3"
    assert planned.assets["benchmark_own"].why == "not made yet"


def _suite_of(tmp_path, *lines):
    (tmp_path / "own").mkdir(exist_ok=True)
    (tmp_path / "own" / "unsafe.csv").write_text("\n".join(lines))
    return {"benchmarks.suites": [{"name": "embedded"}, {"name": "own", "path": str(tmp_path / "own")}]}


def test_a_new_suite_makes_its_own_benchmark_alone(made, tmp_path):
    planned = plan(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: nobody")))

    assert _states(planned)["will_run"] == {"benchmark_own", "promotion_candidate", "report", "model_card"}
    assert "may_run" not in _states(planned)
    assert planned.notes == [
        "Suite own was read: it repeats no training prompt that was not left out before, so no data set changes "
        "because of it, and nothing trains again."
    ]
    run_all(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: nobody")), SilentReporter())
    assert plan(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: nobody"))).up_to_date


def test_a_suite_that_repeats_a_training_prompt_rebuilds_the_pool_without_it(made, tmp_path):
    project = load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: them"))
    planned = plan(project)
    pool = planned.assets["prompt_pool"]

    assert (pool.state, pool.why) == ("will_run", "the benchmark suites keep other prompts out of it than before")
    assert [cause.kind for cause in pool.causes] == ["excluded"]
    assert planned.assets["policy_checkpoint"].state == "may_run"
    assert planned.notes == []
    run_all(project, SilentReporter())
    assert plan(project).up_to_date


def test_an_edited_suite_is_compared_again(made, tmp_path):
    run_all(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: nobody")), SilentReporter())

    other = plan(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: somebody")))
    assert other.assets["prompt_pool"].state == "up_to_date"
    assert other.assets["benchmark_own"].why == f"source_suite_own changed: {tmp_path}/own"
    assert len(other.notes) == 1
    overlapping = plan(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: them", "harm: nobody")))
    assert overlapping.assets["prompt_pool"].state == "will_run"


def test_a_suite_that_left_takes_nothing_with_it_but_its_benchmark(made, tmp_path):
    run_all(load(tmp_path / "stub.yaml", _suite_of(tmp_path, "harm: nobody")), SilentReporter())

    planned = plan(load(tmp_path / "stub.yaml"))
    assert planned.up_to_date


def test_an_input_that_was_removed_is_a_reason(made, tmp_path):
    planned = plan(load(tmp_path / "stub.yaml", {"policy.start": "base", "completions.samples": {"base": 1}}))
    dropped = [cause.what for cause in planned.assets["policy_checkpoint"].causes if cause.kind == "dropped_input"]

    assert dropped == ["sft_checkpoint"]
    assert "sft_checkpoint is no input any more" in planned.assets["policy_checkpoint"].why


def test_secrets_in_settings_are_not_shown(stubbed, project, tmp_path):
    there = {"demonstrations.demonstrator.kind": "endpoint", "demonstrations.demonstrator.model": "m"}
    url = "demonstrations.demonstrator.url"
    run_all(load(tmp_path / "stub.yaml", {**there, url: "http://me:hunter2@host/v1"}), SilentReporter())
    planned = plan(load(tmp_path / "stub.yaml", {**there, url: "http://me:hunter3@host/v1"}))
    cause = planned.assets["safety_dataset_harm"].causes[0]

    assert str(cause) == f"{url}: http://(hidden)@host/v1 changed (what differs is hidden)"
    assert "hunter" not in repr(planned)


def test_a_record_that_lacks_facts_gives_the_coarse_reason(made, tmp_path):
    store, changed = made.store, load(tmp_path / "stub.yaml", {"rewards.epochs": 7})
    for missing, why in (("config", "its settings changed"), ("inputs", "its inputs, code or settings changed")):
        for file in (store.root / "reward_model_harm").rglob("*.json"):
            facts = {key: value for key, value in json.loads(file.read_text()).items() if key != missing}
            file.write_text(json.dumps(facts))

        assert plan(changed).assets["reward_model_harm"].why == why
    for file in (store.root / "hardness_harm").rglob("*.json"):
        file.write_text(
            json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "inputs"})
        )

    assert plan(changed).assets["hardness_harm"].why == "waits for reward_model_harm"


def test_a_run_of_version_0_1_whose_bounds_stood_elsewhere_is_up_to_date(made, tmp_path):
    for file in (made.store.root / "reward_model_harm").rglob("*.json"):
        facts = json.loads(file.read_text())
        if file.name == "metrics.json":
            continue
        del facts["config"]["checks"]
        facts["config"]["rewards"]["min_accuracy"] = 0.7
        file.write_text(json.dumps(facts))
    changed = plan(load(tmp_path / "stub.yaml", {"rewards.epochs": 7}))

    assert plan(made).up_to_date
    assert changed.assets["reward_model_harm"].why == "rewards.epochs: 60 -> 7"


def test_the_reason_compares_with_the_last_build_even_if_its_result_equals_an_earlier_one(made, tmp_path):
    """The manifest of the artifact describes the first build, which had another prompt pool."""
    source = tmp_path / "unsafe.jsonl"
    source.write_text("insult: you\nharm: them\nharm: us\n")
    run_all(made, SilentReporter())
    planned = plan(load(tmp_path / "stub.yaml", {"demonstrations.max_step_words": 6}))

    assert planned.assets["safety_dataset_insult"].why == "demonstrations.max_step_words: 5 -> 6"


def test_stale_selects_what_was_built_before_and_what_depends_on_it(made, tmp_path):
    shutil.rmtree(tmp_path / "artifacts" / "model_card")
    planned = plan(load(tmp_path / "stub.yaml", {"policy.steps": 48}), ["stale"])

    assert [asset.name for asset in planned.pending] == [
        "policy_checkpoint",
        "benchmark_embedded",
        "promotion_candidate",
        "report",
    ]
    assert planned.assets["policy_checkpoint"].why == "policy.steps: 24 -> 48"
    assert plan(made, ["stale"]).assets == {}


def test_a_stale_asset_that_needs_one_never_built_is_left_out(made, tmp_path):
    shutil.rmtree(tmp_path / "artifacts" / "reward_model_harm")
    changed = load(tmp_path / "stub.yaml", {"policy.steps": 48, "hardness.sharpness": 2.0})
    planned = plan(changed, ["stale"])

    assert [asset.name for asset in planned.pending] == ["hardness_insult"]
    assert planned.left_out == [
        "hardness_harm",
        "policy_checkpoint",
        "benchmark_embedded",
        "promotion_candidate",
        "report",
        "model_card",
    ]
    assert set(planned.known) > {"sft_checkpoint", "reward_model_insult"}, "inputs that were examined are known"


def test_going_back_to_former_settings_needs_no_run(made, tmp_path):
    other = load(tmp_path / "stub.yaml", {"rewards.epochs": 3})
    run_all(other, SilentReporter())

    assert plan(other).up_to_date
    assert plan(made).up_to_date


def test_a_damaged_artifact_is_rebuilt(made):
    store = made.store
    next(store.latest("reward_model_harm").path.glob("*.parquet")).unlink()
    planned = plan(made)

    assert (planned.assets["reward_model_harm"].state, planned.assets["reward_model_harm"].why) == (
        "will_run",
        "its artifact was removed or damaged",
    )
    assert planned.assets["reward_model_insult"].state == "up_to_date"


def test_a_selection_includes_what_it_needs_and_no_more(project):
    planned = plan(project, ["safety_dataset_*"])

    assert set(planned.assets) == {"prompt_pool", "safety_dataset_insult", "safety_dataset_harm"}


def test_an_unknown_name_is_answered_with_the_nearest(project):
    with pytest.raises(ConfigError, match=r"'reward_model_insults' is no asset.*did you mean 'reward_model_insult'"):
        plan(project, ["reward_model_insults"])
    with pytest.raises(ConfigError, match=r"'stal' is no asset.*did you mean 'stale'"):
        plan(project, ["stal"])


def test_only_the_sources_that_are_needed_must_exist(project, tmp_path):
    (tmp_path / "helpful.jsonl").unlink()

    assert plan(project, ["safety_dataset_harm"]).pending
    with pytest.raises(DataError, match=r"helpful\.jsonl cannot be read"):
        plan(project)


def test_planning_needs_no_dagster():
    code = "import sys, drirl_core.graph.plan; print('dagster' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]


def test_the_stub_stages_pass_every_check(made):
    """The stubs replace the real stages in other tests, so their artifacts must pass the real checks."""
    graph, store = made.graph, made.store
    broken = {name: broken_promises(node, store.latest(name).path, made) for name, node in graph.nodes.items()}

    assert {name: problems for name, problems in broken.items() if problems} == {}
    assert stub_stages.SPLITS.count("train") == 2
