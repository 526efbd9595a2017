"""The automation condition, on a small graph with real runs: what changed is recomputed, once, and nothing else.

The graph is a small copy of the real one: preferences, a reward model and a hardness per category, and one policy.
"""

from collections.abc import Callable

import dagster as dg
import pytest

from pipeline.wiring.conditions import RETRAIN, recheck

CATEGORIES = ("a", "b")


class SmallGraph:
    """A graph whose assets get the versions that a test sets, and an instance that records the runs."""

    def __init__(self, instance: dg.DagsterInstance, *, failed_checks: set[str] = frozenset()):
        self.instance = instance
        self.versions: dict[str, str] = {}
        self.failing: set[str] = set()
        self.code: dict[str, str] = {}
        self.failed_checks = set(failed_checks)
        self.during: dict[
            str, Callable[[dg.AssetExecutionContext], None]
        ] = {}  # what happens while an asset's step runs
        self.cursor = None
        self._loaded: dict[tuple, dg.Definitions] = {}

    def _asset(self, name: str, deps: list[str]) -> dg.AssetsDefinition:
        @dg.asset(name=name, deps=deps, code_version=self.code.get(name, "1"), automation_condition=RETRAIN)
        def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            version = self.versions.get(name, "v1")
            if name in self.during:
                self.during.pop(name)(context)
            if name in self.failing:
                raise dg.Failure("as the test wants")
            return dg.MaterializeResult(data_version=dg.DataVersion(version))

        return made

    def definitions(self) -> dg.Definitions:
        """Return the same definitions as long as the code is the same; steps look up versions and failures."""
        key = tuple(sorted(self.code.items()))
        if key not in self._loaded:
            self._loaded[key] = self._load()
        return self._loaded[key]

    def _load(self) -> dg.Definitions:
        assets = [self._asset(f"prefs_{c}", ["source"]) for c in CATEGORIES]
        assets += [self._asset(f"rm_{c}", [f"prefs_{c}"]) for c in CATEGORIES]
        assets += [self._asset(f"hard_{c}", [f"prefs_{c}", f"rm_{c}"]) for c in CATEGORIES]
        assets.append(self._asset("policy", [f"{kind}_{c}" for kind in ("rm", "hard") for c in CATEGORIES]))
        specs = [
            dg.AssetCheckSpec("accuracy", asset=f"rm_{c}", blocking=True, automation_condition=recheck())
            for c in CATEGORIES
        ]

        @dg.multi_asset_check(specs=specs, can_subset=True)
        def check(context: dg.AssetCheckExecutionContext):
            for key in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    passed=key.asset_key.to_user_string() not in self.failed_checks,
                    asset_key=key.asset_key,
                    check_name=key.name,
                )

        @dg.multi_observable_source_asset(specs=[dg.AssetSpec("source")])
        def observe():
            yield dg.ObserveResult(asset_key="source", data_version=dg.DataVersion(self.versions.get("source", "v1")))

        return dg.Definitions(assets=[observe, *assets], asset_checks=[check])

    def run(self, *names: str) -> bool:
        """Materialize (or observe) the named assets in one run, with their checks; `name:check` runs only a check."""
        checks = [
            dg.AssetCheckKey(dg.AssetKey(name), check) for name, _, check in (n.partition(":") for n in names) if check
        ]
        selection = dg.AssetSelection.assets(*(name for name in names if ":" not in name))
        job = dg.define_asset_job("job", selection | dg.AssetSelection.checks(*checks) if checks else selection)
        defs = dg.Definitions.merge(self.definitions(), dg.Definitions(jobs=[job]))
        return defs.resolve_job_def("job").execute_in_process(instance=self.instance, raise_on_error=False).success

    def everything(self) -> list[str]:
        kinds = ("prefs", "rm", "hard")
        return [f"{kind}_{c}" for kind in kinds for c in CATEGORIES] + ["policy"]

    def tick(self) -> set[str]:
        """Evaluate the conditions once and run what they request."""
        result = dg.evaluate_automation_conditions(self.definitions(), self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        keys = [subset.key for subset in result.results if not subset.true_subset.is_empty]
        asked = {key.to_user_string() for key in keys}
        if asked:
            self.run(*sorted(asked))
        return asked

    def settle(self) -> list[set[str]]:
        """Tick until two ticks request nothing; return the requests of each other tick."""
        asked, quiet = [], 0
        while quiet < 2:
            asked.append(self.tick())
            quiet = 0 if asked[-1] else quiet + 1
            assert len(asked) < 12, f"automation does not settle: {asked}"
        return [each for each in asked if each]


pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def graph(instance):
    """A graph in which everything is built and up to date."""
    made = SmallGraph(instance)
    made.run("source")
    assert made.run(*made.everything())
    assert made.settle() == []
    return made


def test_a_first_start_launches_nothing_by_itself(instance):
    fresh = SmallGraph(instance)
    fresh.run("source")

    assert fresh.settle() == []


def test_an_input_that_comes_out_the_same_causes_nothing(graph):
    graph.run("prefs_a", "prefs_b")

    assert graph.settle() == []


def test_one_changed_category_recomputes_its_own_branch_and_the_policy_last(graph):
    graph.versions |= {"prefs_a": "v2", "rm_a": "v2", "hard_a": "v2", "policy": "v2"}
    graph.run("prefs_a", "prefs_b")

    assert graph.settle() == [{"rm_a"}, {"hard_a"}, {"policy"}]


def test_the_cascade_stops_where_a_result_is_the_same_as_before(graph):
    graph.versions["prefs_a"] = "v2"
    graph.run("prefs_a")

    assert graph.settle() == [{"rm_a"}, {"hard_a"}]


def test_a_changed_source_is_followed_after_it_was_observed(graph):
    graph.versions["source"] = "v2"
    assert graph.settle() == []

    graph.run("source")

    assert graph.settle() == [{"prefs_a", "prefs_b"}]


def test_a_failing_asset_is_tried_once_and_blocks_the_policy_until_its_input_changes(graph):
    graph.versions |= {"prefs_a": "v2", "prefs_b": "v2", "rm_a": "v2", "rm_b": "v2", "hard_b": "v2"}
    graph.failing = {"rm_a"}
    graph.run("prefs_a", "prefs_b")

    assert graph.settle() == [{"rm_a", "rm_b"}, {"rm_b:accuracy"}, {"hard_b"}]

    graph.failing, graph.versions["prefs_a"] = set(), "v3"
    graph.run("prefs_a")

    assert graph.settle()[0] == {"rm_a"}


def test_new_code_recomputes_the_asset_and_what_depends_on_it(graph):
    graph.code = {"rm_a": "2"}
    graph.versions |= {"rm_a": "v2", "hard_a": "v2"}

    assert graph.settle() == [{"rm_a"}, {"hard_a"}, {"policy"}]


def test_a_reward_model_with_a_failed_check_blocks_what_depends_on_it(graph):
    graph.versions |= {"prefs_a": "v2", "rm_a": "v2"}
    graph.failed_checks = {"rm_a"}
    graph.run("prefs_a")

    assert graph.settle() == [{"rm_a"}]

    graph.failed_checks, graph.versions["prefs_a"], graph.versions["rm_a"] = set(), "v3", "v3"
    graph.run("prefs_a")

    assert graph.settle()[:2] == [{"rm_a"}, {"hard_a"}]


def test_building_everything_by_hand_causes_no_further_run(graph):
    graph.versions = {name: "v9" for name in graph.everything()}
    graph.run(*graph.everything())

    assert graph.settle() == []


def test_no_change_is_missed_after_a_lost_cursor(graph):
    graph.versions["prefs_b"] = "v2"
    graph.run("prefs_b")
    graph.cursor = None

    assert graph.settle() == [{"rm_b"}, {"hard_b"}]


def test_a_change_while_the_asset_is_built_is_not_missed(graph):
    """The input changes after the step read it, so the result is already out of date."""

    def change(context: dg.AssetExecutionContext) -> None:
        tags = {"dagster/data_version": "v3"}
        context.instance.report_runless_asset_event(dg.AssetMaterialization("prefs_a", tags=tags))

    graph.versions |= {"prefs_a": "v2", "rm_a": "v2"}
    graph.during["rm_a"] = change
    graph.run("prefs_a")

    assert graph.settle() == [{"rm_a"}, {"rm_a"}, {"hard_a"}, {"policy"}]
    assert graph.during == {}


def _cancel(context: dg.AssetExecutionContext) -> None:
    """Cancel as the web page does: mark the run as being cancelled, then interrupt its process."""
    context.instance.report_run_canceling(context.run)
    raise dg.DagsterExecutionInterruptedError


@pytest.mark.long
def test_a_cancelled_run_stays_quiet_until_an_input_changes(graph):
    graph.versions |= {"prefs_a": "v2", "rm_a": "v2", "hard_a": "v2"}
    graph.during["rm_a"] = _cancel
    graph.run("prefs_a")

    assert graph.settle() == [{"rm_a"}]
    assert graph.instance.get_runs(limit=1)[0].status is dg.DagsterRunStatus.CANCELED
    assert [graph.tick() for _ in range(5)] == [set()] * 5

    graph.versions["prefs_a"] = "v3"
    graph.run("prefs_a")

    assert graph.settle() == [{"rm_a"}, {"hard_a"}, {"policy"}]


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
def test_inputs_built_in_the_failed_run_are_no_reason_to_try_again(graph, ends):
    graph.versions = {name: "v9" for name in graph.everything()}
    if ends == "failed":
        graph.failing = {"policy"}
    else:
        graph.during["policy"] = _cancel
    assert not graph.run(*graph.everything())
    graph.failing = set()

    assert graph.settle() == []

    graph.versions["hard_a"] = "v10"
    graph.run("hard_a")

    assert graph.settle() == [{"policy"}]


@pytest.mark.long
def test_assets_that_waited_for_a_failed_step_follow_once_it_is_fixed(graph):
    graph.versions = {name: "v9" for name in graph.everything()}
    graph.failing = {"rm_a"}
    assert not graph.run(*graph.everything())
    assert graph.settle() == [{"rm_b:accuracy"}, {"hard_b"}]
    graph.failing = set()
    graph.run("rm_a")

    assert graph.settle() == [{"hard_a"}, {"policy"}]


@pytest.mark.long
def test_a_failing_asset_is_not_tried_for_ever(graph):
    graph.versions["prefs_a"] = "v2"
    graph.failing = {"rm_a"}
    graph.run("prefs_a")

    assert [graph.tick() for _ in range(20)] == [{"rm_a"}, *[set()] * 19]


@pytest.mark.long
def test_new_code_of_a_stage_recomputes_all_its_categories_and_the_policy_once(graph):
    graph.code = {"rm_a": "2", "rm_b": "2"}
    graph.versions |= {"rm_a": "v2", "rm_b": "v2", "hard_a": "v2", "hard_b": "v2", "policy": "v2"}

    assert graph.settle() == [{"rm_a", "rm_b"}, {"hard_a", "hard_b"}, {"policy"}]


def test_new_code_with_the_same_result_is_tried_once(graph):
    graph.code = {"rm_a": "2"}

    assert graph.settle() == [{"rm_a"}]


def test_changes_while_the_sensor_was_off_are_noticed_when_it_is_on_again(graph):
    """Off means no tick: two changes, new code and a run by hand happen without one."""
    graph.versions |= {"prefs_a": "v2", "prefs_b": "v2"}
    graph.run("prefs_a", "prefs_b")
    graph.code = {"hard_b": "2"}
    graph.run("rm_a")

    assert graph.settle() == [{"rm_b", "hard_a"}, {"hard_b"}]


def test_the_complete_chain_by_hand_in_separate_runs_causes_no_further_run(graph):
    graph.versions = {name: "v9" for name in graph.everything()}
    for name in graph.everything():
        graph.run(name)

    assert graph.settle() == []


def test_a_tick_between_two_runs_by_hand_repeats_nothing(graph):
    graph.versions = {name: "v9" for name in ("prefs_a", "rm_a", "hard_a", "policy")}
    graph.run("prefs_a")
    graph.run("rm_a")

    assert graph.settle() == [{"hard_a"}, {"policy"}]
