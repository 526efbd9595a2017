"""The plan as an asset: what an observation shows, and that only a changed plan changes its version."""

import dagster as dg
import pytest
import stub_stages
from paths import ROOT

from drirl_core.graph.build import run_all
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load
from pipeline.wiring.factories import OWNERS
from pipeline.wiring.panel import PANEL, plan_panel
from pipeline.wiring.resolve import VERSION_TAG


def _observe(project, instance) -> dg.AssetObservation:
    defs = dg.Definitions(assets=[plan_panel(project, OWNERS)])
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(PANEL)]
    )
    return result.get_asset_observation_events()[0].asset_observation_data.asset_observation


@pytest.mark.usefixtures("stubbed")
def test_the_plan_is_shown_and_counted(project, instance, tmp_path):
    run_all(project, SilentReporter())
    stub_stages.spend(project.store, {"policy_checkpoint": (60.0, 1500)})
    settled, again = _observe(project, instance), _observe(project, instance)
    changed = _observe(load(tmp_path / "stub.yaml", {"policy.steps": 48}), instance)
    shown = {name: value.value for name, value in changed.metadata.items()}

    assert settled.tags[VERSION_TAG] == again.tags[VERSION_TAG] != changed.tags[VERSION_TAG]
    assert settled.metadata["cost"].value == "nothing to do"
    assert {name: shown[name] for name in ("up_to_date", "will_run", "may_run", "stale", "unknown_cost")} == {
        "up_to_date": len(project.graph.nodes) - 5,
        "will_run": 1,
        "may_run": 4,
        "stale": 5,
        "unknown_cost": 0,
    }
    assert list(shown)[:2] == ["key figures", "plan"]
    assert f"| **{len(project.graph.nodes) - 5} of {len(project.graph.nodes)}** | assets that are up to date |" in (
        shown["key figures"].splitlines()
    )
    assert (shown["seconds"], shown["tokens"]) == (120.0, 3000)
    assert shown["cost"] == "about 2 min 00 s and 3.0k tokens"
    assert (
        "| policy_checkpoint | will run | policy.steps: 24 -> 48 | 1 min 00 s | 2 min 00 s (1 build, scaled by policy.steps) | 3.0k |"
        in shown["plan"].splitlines()
    )


def test_a_source_that_cannot_be_read_is_a_clear_failure(project, instance, tmp_path):
    (tmp_path / "unsafe.jsonl").unlink()
    with pytest.raises(dg.Failure, match=r"unsafe\.jsonl cannot be read"):
        _observe(project, instance)


def test_observing_the_plan_loads_no_heavy_library(tmp_path):
    import subprocess
    import sys

    path = stub_stages.write_settings(tmp_path)
    code = (
        "import sys, dagster as dg; from pipeline.wiring.panel import plan_panel; from pipeline.instance.settings import load\n"
        f"job = dg.Definitions(assets=[plan_panel(load({str(path)!r}), ['team:x'])]).resolve_implicit_global_asset_job_def()\n"
        "assert job.execute_in_process().success\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
