"""Make Dagster's asset checks out of the rules, one step a stage."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from drirl_core.checks.rules import RULES
from drirl_core.checks.verdicts import Rule, Verdict, judge
from drirl_core.config import Config
from drirl_core.errors import DrirlError
from drirl_core.graph.build import Node, build_graph
from drirl_core.store.artifacts import ArtifactStore
from pipeline.executors.gpu_spec import GpuSpec, op_tags
from pipeline.wiring.conditions import BOUNDS, recheck
from pipeline.wiring.display import finite
from pipeline.wiring.resolve import artifact_of


def stage_checks(stage: str, config: Config, gates_block: bool = True) -> dg.AssetChecksDefinition:
    """Return the checks of all assets of a stage as one step.

    Args:
        stage: key into `STAGES` and `RULES`.
        config: the configuration, which holds the thresholds.
        gates_block: whether a gate that fails fails the run; where a run promotes nothing, it is only told.
    """
    nodes = [node for node in build_graph(config).nodes.values() if node.stage == stage]
    cases = {(node.name, rule.name): (node, rule) for node in nodes for rule in RULES[stage]}
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
                node, rule, _verdict(context.instance, node, rule, config), config, _blocks(rule, gates_block)
            )

    return check


def _blocks(rule: Rule, gates_block: bool) -> bool:
    return rule.blocking and (gates_block or not rule.gate)


def broken_promises(node: Node, version: str, config: Config) -> list[str]:
    """Return what a published artifact breaks of the blocking rules of its stage, gates left out.

    Args:
        node: the asset.
        version: version of the artifact.
        config: the configuration.
    """
    path = ArtifactStore.of(config).open(node.name, version).path
    verdicts = {
        rule.name: judge(rule, path, config, node) for rule in RULES.get(node.stage, ()) if _blocks(rule, False)
    }
    return [f"{name}: {verdict.description}" for name, verdict in verdicts.items() if not verdict.passed]


def _verdict(instance: dg.DagsterInstance, node: Node, rule: Rule, config: Config) -> Verdict:
    try:
        return judge(rule, artifact_of(instance, node.name, config).path, config, node)
    except DrirlError as error:
        return Verdict(False, str(error))


def _result(node: Node, rule: Rule, verdict: Verdict, config: Config, blocking: bool) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {name: finite(value) for name, value in verdict.metadata.items()}
    if rule.bounds:
        metadata[BOUNDS] = rule.bounds_of(config)
    return dg.AssetCheckResult(
        passed=verdict.passed,
        asset_key=node.name,
        check_name=rule.name,
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        description=verdict.description,
        metadata=metadata,
    )
