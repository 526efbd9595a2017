"""Make Dagster's asset checks from the rules in `drirl_core.checks`, one step per stage."""

from collections.abc import Iterator

import dagster as dg

from drirl_core.checks.asking import rules_of
from drirl_core.checks.verdicts import Rule, Verdict, judge
from drirl_core.errors import DrirlError
from drirl_core.graph.layout import Node
from drirl_core.project import Project
from pipeline.executors.gpu_spec import GpuSpec, op_tags
from pipeline.wiring.conditions import BOUNDS, recheck
from pipeline.wiring.display import check_metadata
from pipeline.wiring.resolve import artifact_of


def stage_checks(stage: str, project: Project, gates_block: bool = True) -> dg.AssetChecksDefinition:
    """Return the checks of all assets of a stage as one step.

    Args:
        stage: key into `STAGES`.
        project: the configuration with the bounds, its graph and its store.
        gates_block: whether a failed gate fails the run; in a run that promotes nothing it is only a warning.
    """
    config = project.config
    cases = {(node.name, rule.name): (node, rule) for node in project.graph.of(stage) for rule in rules_of(stage)}
    specs = [
        dg.AssetCheckSpec(
            rule.name,
            asset=node.name,
            description=rule.description,
            blocking=_blocks(rule, gates_block),
            automation_condition=recheck(rule.bounds_of(config)),
        )
        for node, rule in cases.values()
    ]

    tags = op_tags(GpuSpec(), config.execution.executor)

    @dg.multi_asset_check(name=f"check_{stage}", specs=specs, can_subset=True, op_tags=tags)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        for key in sorted(context.selected_asset_check_keys):
            node, rule = cases[key.asset_key.to_user_string(), key.name]
            yield _result(
                node, rule, _verdict(context.instance, node, rule, project), project, _blocks(rule, gates_block)
            )

    return check


def _blocks(rule: Rule, gates_block: bool) -> bool:
    return rule.blocking and (gates_block or not rule.gate)


def _verdict(instance: dg.DagsterInstance, node: Node, rule: Rule, project: Project) -> Verdict:
    try:
        return judge(rule, artifact_of(instance, node.name, project).path, project, node)
    except DrirlError as error:
        return Verdict(False, str(error))


def _result(node: Node, rule: Rule, verdict: Verdict, project: Project, blocking: bool) -> dg.AssetCheckResult:
    metadata = check_metadata(rule, verdict)
    if rule.bounds:
        metadata[BOUNDS] = rule.bounds_of(project.config)
    return dg.AssetCheckResult(
        passed=verdict.passed,
        asset_key=node.name,
        check_name=rule.name,
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        description=verdict.description,
        metadata=metadata,
    )
