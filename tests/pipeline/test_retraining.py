"""Targeted retraining on the project's own definitions: what a change recomputes, once each, and what it does not.

Stub stages run in this process, because each step in a worker would take seconds; one slow test uses workers. Every
test leaves everything up to date, so that the next one starts from there.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import stub_stages

from drirl_core.graph.build import build
from drirl_core.graph.layout import Node
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load
from pipeline.running import launch
from pipeline.wiring import factories
from pipeline.wiring.factories import all_definitions
from pipeline.wiring.resolve import input_versions, recorded_version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

SAMPLES = {"completions.samples": {"base": 1}}  # sampling from the SFT start makes every pool depend on every data set
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
KL_BOUND = dg.AssetCheckKey(dg.AssetKey("policy_checkpoint"), "kl_bound")
AFTER_POLICY = {"policy_checkpoint", "benchmark_embedded", "promotion_candidate", "report", "model_card"}


class Deployment:
    """The definitions of a configuration, an instance, and the cursor of automation."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance, self.cursor = folder, instance, None
        self.settings = dict(SAMPLES)
        self.deploy()

    def deploy(self, **changes: object) -> None:
        """Reload the definitions with changed settings, as a reload of the code location does."""
        self.settings |= {key.replace("__", "."): value for key, value in changes.items()}
        self.project = load(stub_stages.write_settings(self.folder, name="fine"), self.settings)
        self.graph, self.defs = self.project.graph, all_definitions(self.project, retry=None)
        self._job = self.defs.resolve_implicit_global_asset_job_def()

    def write(self, text: str) -> None:
        (self.folder / "unsafe.jsonl").write_text(text)

    def read(self) -> str:
        return (self.folder / "unsafe.jsonl").read_text()

    def run(self, names: list[str]) -> bool:
        """Build the named assets, with their checks; `name:check` runs only a check."""
        checks = [
            dg.AssetCheckKey(dg.AssetKey(name), check) for name, _, check in (n.partition(":") for n in names) if check
        ]
        if checks:
            job = dg.define_asset_job("checks", dg.AssetSelection.checks(*checks))
            defs = dg.Definitions.merge(self.defs, dg.Definitions(jobs=[job]))
            defs.resolve_job_def("checks").execute_in_process(
                instance=self.instance, raise_on_error=False, run_config=QUIET
            )
        keys = [dg.AssetKey(name) for name in names if ":" not in name]
        if not keys:
            return True
        return self._job.execute_in_process(
            instance=self.instance, asset_selection=keys, raise_on_error=False, run_config=QUIET
        ).success

    def observe(self) -> None:
        assert self.run(list(self.graph.sources))

    def settle(self) -> Counter[str]:
        """Tick until a tick requests nothing; return how often each asset was launched."""
        launched: Counter[str] = Counter()
        for _ in range(14):
            result = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
            self.cursor = result.cursor
            asked = sorted(subset.key.to_user_string() for subset in result.results if not subset.true_subset.is_empty)
            if not asked:
                return launched
            launched.update(asked)
            assert self.run(asked), asked
        raise AssertionError(f"automation does not settle: {launched}")

    def versions(self) -> dict[str, str | None]:
        return {name: recorded_version(self.instance, name) for name in self.graph.nodes}

    def changed_since(self, before: dict[str, str | None]) -> set[str]:
        """Return the assets whose version has changed."""
        return {name for name, version in self.versions().items() if version != before[name]}


def _build_here(
    context: dg.AssetExecutionContext, nodes: list[Node], project: Project
) -> Iterator[dg.MaterializeResult]:
    """Do the work of the worker in this process."""
    versions = input_versions(context.instance, nodes, project)
    for node in nodes:
        artifact, _, _ = build(node, project, versions, SilentReporter())
        versions[node.name] = artifact.version
        yield dg.MaterializeResult(asset_key=node.name, data_version=dg.DataVersion(artifact.version))


def _made(folder: Path, instance: dg.DagsterInstance) -> Deployment:
    deployment = Deployment(folder, instance)
    deployment.observe()
    assert deployment.run(list(deployment.graph.nodes))
    assert deployment.settle() == Counter()
    return deployment


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """A deployment in which everything is up to date, with stages that run in this process."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        for name in list(STAGES):
            patch.setitem(STAGES, name, STAGES[name])
        stub_stages.install()
        patch.setattr(factories, "run_stages", _build_here)
        yield _made(tmp_path_factory.mktemp("deployment"), instance)


def test_observing_unchanged_sources_launches_nothing(deployment):
    deployment.observe()

    assert deployment.settle() == Counter()


@pytest.mark.long
def test_rows_of_one_category_recompute_its_own_branch_and_the_policy_once(deployment):
    _change_one_category(deployment)


def test_a_row_that_changes_no_result_recomputes_only_the_pool(deployment):
    before = deployment.versions()
    deployment.write(deployment.read() + "a line that is no prompt\n")
    deployment.observe()

    assert deployment.settle() == Counter(["prompt_pool"])
    assert deployment.changed_since(before) == set()


@pytest.mark.long
def test_a_setting_of_the_rewards_recomputes_everything_after_them(deployment):
    deployment.deploy(rewards__epochs=7)
    rewards = {"reward_model_insult", "reward_model_harm", "reward_model_helpful"}

    assert deployment.settle() == Counter(rewards | {"hardness_insult", "hardness_harm"} | AFTER_POLICY)


@pytest.mark.long
def test_a_setting_of_the_policy_recomputes_the_policy(deployment):
    deployment.deploy(policy__steps=48)

    assert deployment.settle() == Counter(AFTER_POLICY)


@pytest.mark.long
def test_a_new_algorithm_recomputes_its_stage_and_what_depends_on_it(deployment):
    STAGES["hardness"] = dataclasses.replace(STAGES["hardness"], version="next")  # until the fixture ends
    deployment.deploy()

    assert deployment.settle() == Counter({"hardness_insult", "hardness_harm"} | AFTER_POLICY)


@pytest.mark.long
def test_a_bound_repeats_its_checks_and_recomputes_nothing(deployment):
    before = deployment.versions()
    for bound, passes in ((0.001, False), (2.0, True)):
        deployment.deploy(checks__max_kl=bound)

        assert deployment.settle() == Counter(["policy_checkpoint:kl_bound", "promotion_candidate:kl_bound"])
        asked = deployment.instance.event_log_storage.get_latest_asset_check_execution_by_key([KL_BOUND])[
            KL_BOUND
        ].evaluation
        assert (asked.passed, asked.metadata["max_kl"].value) == (passes, str(bound))
        assert deployment.changed_since(before) == set()


@pytest.mark.slow  # some thirty steps, each of which starts a worker
@pytest.mark.usefixtures("stubbed")
def test_rows_of_one_category_with_real_workers(instance, tmp_path):
    assert launch.WORKER == "stub_worker"
    _change_one_category(_made(tmp_path, instance))


def _change_one_category(deployment: Deployment) -> None:
    before, own = (
        deployment.versions(),
        {"safety_dataset_insult", "completion_pool_insult", "reward_model_insult", "hardness_insult"},
    )
    deployment.write(deployment.read() + "insult: and your dog\n")
    deployment.observe()
    launched = deployment.settle()

    # All data sets read the prompt pool; those of the other categories are unchanged, which ends their branch.
    datasets = {"safety_dataset_insult", "safety_dataset_harm", "helpful_dataset"}
    assert launched == Counter(
        {"prompt_pool", "balance_report", "sft_checkpoint", "reference_classifiers"} | datasets | own | AFTER_POLICY
    )
    assert deployment.changed_since(before) == set(launched) - {"safety_dataset_harm", "helpful_dataset"}
