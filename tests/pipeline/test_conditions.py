"""The automation condition, on a small graph with real runs: what changed is made anew, once, and nothing else.

The graph is the road in little: preferences of two categories, a reward model each, a hardness each, one policy.
"""

from collections.abc import Callable

import dagster as dg
import pytest

from pipeline.wiring.conditions import RETRAIN, recheck

CATEGORIES = ("a", "b")


class Road:
    """A graph whose assets take the versions that a test sets, and an instance that remembers what ran."""

    def __init__(self, instance: dg.DagsterInstance, *, unsound: set[str] = frozenset()):
        self.instance = instance
        self.versions: dict[str, str] = {}
        self.failing: set[str] = set()
        self.code: dict[str, str] = {}
        self.unsound = set(unsound)
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
        """Return the same definitions while the code is the same; versions and failures are looked up when a step runs."""
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
            dg.AssetCheckSpec("sound", asset=f"rm_{c}", blocking=True, automation_condition=recheck())
            for c in CATEGORIES
        ]

        @dg.multi_asset_check(specs=specs, can_subset=True)
        def check(context: dg.AssetCheckExecutionContext):
            for key in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    passed=key.asset_key.to_user_string() not in self.unsound,
                    asset_key=key.asset_key,
                    check_name=key.name,
                )

        @dg.multi_observable_source_asset(specs=[dg.AssetSpec("source")])
        def observe():
            yield dg.ObserveResult(asset_key="source", data_version=dg.DataVersion(self.versions.get("source", "v1")))

        return dg.Definitions(assets=[observe, *assets], asset_checks=[check])

    def run(self, *names: str) -> bool:
        """Materialize (or observe) the named assets in one run, with their checks; `name:check` runs a check alone."""
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
        """Evaluate the conditions once and run what they ask for."""
        result = dg.evaluate_automation_conditions(self.definitions(), self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        keys = [subset.key for subset in result.results if not subset.true_subset.is_empty]
        asked = {key.to_user_string() for key in keys}
        if asked:
            self.run(*sorted(asked))
        return asked

    def settle(self) -> list[set[str]]:
        """Tick until two ticks ask for nothing; return what each of the others asked for."""
        asked, quiet = [], 0
        while quiet < 2:
            asked.append(self.tick())
            quiet = 0 if asked[-1] else quiet + 1
            assert len(asked) < 12, f"no end of it: {asked}"
        return [each for each in asked if each]


pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def road(instance):
    """A road that is made and settled."""
    made = Road(instance)
    made.run("source")
    assert made.run(*made.everything())
    assert made.settle() == []
    return made


def test_a_first_start_launches_nothing_by_itself(instance):
    fresh = Road(instance)
    fresh.run("source")

    assert fresh.settle() == []


def test_an_input_that_comes_out_the_same_causes_nothing(road):
    road.run("prefs_a", "prefs_b")

    assert road.settle() == []


def test_one_changed_category_makes_its_own_branch_anew_and_the_policy_last(road):
    road.versions |= {"prefs_a": "v2", "rm_a": "v2", "hard_a": "v2", "policy": "v2"}
    road.run("prefs_a", "prefs_b")

    assert road.settle() == [{"rm_a"}, {"hard_a"}, {"policy"}]


def test_the_cascade_stops_where_a_result_is_the_same_as_before(road):
    road.versions["prefs_a"] = "v2"
    road.run("prefs_a")

    assert road.settle() == [{"rm_a"}, {"hard_a"}]


def test_a_changed_source_is_followed_after_it_was_observed(road):
    road.versions["source"] = "v2"
    assert road.settle() == []

    road.run("source")

    assert road.settle() == [{"prefs_a", "prefs_b"}]


def test_a_failing_asset_is_tried_once_and_holds_the_policy_back_until_its_input_changes(road):
    road.versions |= {"prefs_a": "v2", "prefs_b": "v2", "rm_a": "v2", "rm_b": "v2", "hard_b": "v2"}
    road.failing = {"rm_a"}
    road.run("prefs_a", "prefs_b")

    assert road.settle() == [{"rm_a", "rm_b"}, {"rm_b:sound"}, {"hard_b"}]

    road.failing, road.versions["prefs_a"] = set(), "v3"
    road.run("prefs_a")

    assert road.settle()[0] == {"rm_a"}


def test_new_code_makes_the_asset_and_what_depends_on_it_anew(road):
    road.code = {"rm_a": "2"}
    road.versions |= {"rm_a": "v2", "hard_a": "v2"}

    assert road.settle() == [{"rm_a"}, {"hard_a"}, {"policy"}]


def test_an_unsound_reward_model_holds_back_what_depends_on_it(road):
    road.versions |= {"prefs_a": "v2", "rm_a": "v2"}
    road.unsound = {"rm_a"}
    road.run("prefs_a")

    assert road.settle() == [{"rm_a"}]

    road.unsound, road.versions["prefs_a"], road.versions["rm_a"] = set(), "v3", "v3"
    road.run("prefs_a")

    assert road.settle()[:2] == [{"rm_a"}, {"hard_a"}]


def test_making_everything_by_hand_causes_no_further_run(road):
    road.versions = {name: "v9" for name in road.everything()}
    road.run(*road.everything())

    assert road.settle() == []


def test_a_lost_cursor_loses_no_change(road):
    road.versions["prefs_b"] = "v2"
    road.run("prefs_b")
    road.cursor = None

    assert road.settle() == [{"rm_b"}, {"hard_b"}]


def test_a_change_while_the_asset_is_made_is_not_lost(road):
    """The input moves after the step looked at it, so what comes out is behind already."""

    def change(context: dg.AssetExecutionContext) -> None:
        tags = {"dagster/data_version": "v3"}
        context.instance.report_runless_asset_event(dg.AssetMaterialization("prefs_a", tags=tags))

    road.versions |= {"prefs_a": "v2", "rm_a": "v2"}
    road.during["rm_a"] = change
    road.run("prefs_a")

    assert road.settle() == [{"rm_a"}, {"rm_a"}, {"hard_a"}, {"policy"}]
    assert road.during == {}


def _cancel(context: dg.AssetExecutionContext) -> None:
    """As the page does it: the run is marked as being cancelled, then its process is interrupted."""
    context.instance.report_run_canceling(context.run)
    raise dg.DagsterExecutionInterruptedError


def test_a_cancelled_run_stays_quiet_until_an_input_changes(road):
    road.versions |= {"prefs_a": "v2", "rm_a": "v2", "hard_a": "v2"}
    road.during["rm_a"] = _cancel
    road.run("prefs_a")

    assert road.settle() == [{"rm_a"}]
    assert road.instance.get_runs(limit=1)[0].status is dg.DagsterRunStatus.CANCELED
    assert [road.tick() for _ in range(5)] == [set()] * 5

    road.versions["prefs_a"] = "v3"
    road.run("prefs_a")

    assert road.settle() == [{"rm_a"}, {"hard_a"}, {"policy"}]


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
def test_inputs_made_in_the_run_that_gave_up_are_no_reason_to_try_again(road, ends):
    road.versions = {name: "v9" for name in road.everything()}
    if ends == "failed":
        road.failing = {"policy"}
    else:
        road.during["policy"] = _cancel
    assert not road.run(*road.everything())
    road.failing = set()

    assert road.settle() == []

    road.versions["hard_a"] = "v10"
    road.run("hard_a")

    assert road.settle() == [{"policy"}]


def test_what_a_failed_step_left_unmade_follows_when_it_is_mended(road):
    road.versions = {name: "v9" for name in road.everything()}
    road.failing = {"rm_a"}
    assert not road.run(*road.everything())
    assert road.settle() == [{"rm_b:sound"}, {"hard_b"}]
    road.failing = set()
    road.run("rm_a")

    assert road.settle() == [{"hard_a"}, {"policy"}]


def test_a_failing_asset_is_not_tried_for_ever(road):
    road.versions["prefs_a"] = "v2"
    road.failing = {"rm_a"}
    road.run("prefs_a")

    assert [road.tick() for _ in range(20)] == [{"rm_a"}, *[set()] * 19]


def test_new_code_of_a_stage_makes_all_its_categories_anew_and_the_policy_once(road):
    road.code = {"rm_a": "2", "rm_b": "2"}
    road.versions |= {"rm_a": "v2", "rm_b": "v2", "hard_a": "v2", "hard_b": "v2", "policy": "v2"}

    assert road.settle() == [{"rm_a", "rm_b"}, {"hard_a", "hard_b"}, {"policy"}]


def test_new_code_that_gives_the_same_is_tried_once(road):
    road.code = {"rm_a": "2"}

    assert road.settle() == [{"rm_a"}]


def test_what_changed_while_the_sensor_was_off_is_made_up_for_when_it_is_on_again(road):
    """Off means no tick: two changes, new code and a run by hand pass unseen."""
    road.versions |= {"prefs_a": "v2", "prefs_b": "v2"}
    road.run("prefs_a", "prefs_b")
    road.code = {"hard_b": "2"}
    road.run("rm_a")

    assert road.settle() == [{"rm_b", "hard_a"}, {"hard_b"}]


def test_the_whole_chain_by_hand_in_separate_runs_causes_no_further_run(road):
    road.versions = {name: "v9" for name in road.everything()}
    for name in road.everything():
        road.run(name)

    assert road.settle() == []


def test_a_tick_between_two_runs_by_hand_repeats_nothing(road):
    road.versions = {name: "v9" for name in ("prefs_a", "rm_a", "hard_a", "policy")}
    road.run("prefs_a")
    road.run("rm_a")

    assert road.settle() == [{"hard_a"}, {"policy"}]
