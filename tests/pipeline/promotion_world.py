"""Stub stages with the end of the graph on top: candidate, gates and promoted policy."""

import dagster as dg
import stub_stages

from drirl_core.checks.gates import candidate_of, judge_candidate
from drirl_core.promotion import CANDIDATE
from pipeline.instance.settings import load
from pipeline.wiring.asset_checks import stage_checks
from pipeline.wiring.factories import OWNERS, group_assets
from pipeline.wiring.promoting import ledger, promoted_policy


class World:
    """Stub stages built without Dagster, recorded in an instance, and the graph's end run on top."""

    def __init__(self, instance, folder):
        self.instance, self.folder, self.cursor = instance, folder, None

    def make(self, mood="fine", **overrides):
        """Build the complete graph and record it."""
        self.project = load(
            stub_stages.write_settings(self.folder, name=mood),
            {key.replace("__", "."): v for key, v in overrides.items()},
        )
        stub_stages.build_and_record(self.instance, self.project)
        return self

    def definitions(self):
        end = dg.Definitions(
            assets=[promoted_policy(self.project, OWNERS)], asset_checks=[stage_checks(CANDIDATE, self.project)]
        )
        return dg.Definitions.merge(dg.Definitions(assets=group_assets("report", self.project)), end)

    def run(self, *names, checks=()):
        selection = dg.AssetSelection.assets(*names) if names else dg.AssetSelection.checks(*checks)
        job = dg.define_asset_job("job", selection)
        defs = dg.Definitions.merge(self.definitions(), dg.Definitions(jobs=[job]))
        return defs.resolve_job_def("job").execute_in_process(instance=self.instance, raise_on_error=False)

    def tick(self):
        """Evaluate the automation of the end of the graph once, and run what it asks for."""
        assets = self.asked()
        if assets:
            self.run(*assets)
        return assets

    def asked(self):
        """Evaluate the automation once and return the assets that it asks for."""
        result = dg.evaluate_automation_conditions(self.definitions(), self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        keys = [subset.key for subset in result.results if not subset.true_subset.is_empty]
        return {key.to_user_string() for key in keys if isinstance(key, dg.AssetKey)}

    def gate_keys(self):
        specs = stage_checks(CANDIDATE, self.project).check_specs
        return [spec.key for spec in specs]

    @property
    def promoted(self):
        entry = ledger(self.project).current()
        return entry.policy if entry else None


def failure_of(result) -> str:
    """Return what the one failed step says."""
    return next(
        e for e in result.all_events if e.event_type_value == "STEP_FAILURE"
    ).step_failure_data.user_failure_data.description


def regression_of(project):
    """Return what the gate says of the newest candidate."""
    return next(
        gate.verdict for gate in judge_candidate(project, candidate_of(project)) if gate.name == "no_regression"
    )
