"""What pending assets will cost, judged by their earlier builds: from the records of the store, without a guess.

An earlier build counts when every setting that decides the cost was the same. Two kinds of difference are corrected
by a factor, and marked: settings that the cost follows in proportion, and the number of prompts that are sampled.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drirl_core.config import from_resolved, resolved
from drirl_core.config.base import differences
from drirl_core.config.slices import ABSENT, came_quietly, quiet
from drirl_core.graph.layout import Node
from drirl_core.graph.plan import Plan
from drirl_core.graph.reasons import hidden
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import deciding
from drirl_core.project import Project
from drirl_core.reporting import amount, counted, duration

_MOST_BUILDS = 5


@dataclass(frozen=True)
class Build:
    """What one build took.

    Args:
        seconds: time of the stage, without the start of its process.
        tokens: tokens trained on or generated; 0 for a stage that does neither, None where it was not recorded.
    """

    seconds: float
    tokens: float | None


@dataclass(frozen=True)
class Estimate:
    """What one asset will cost.

    Args:
        seconds: time of the stage; None when unknown.
        tokens: tokens trained on or generated; None when unknown.
        builds: earlier builds it rests on.
        scaled: what they were scaled by, such as `policy.steps`.
        how: how it was obtained, or why it is unknown.
        last: the newest build, whatever its settings were.
    """

    seconds: float | None
    tokens: float | None
    builds: int
    scaled: tuple[str, ...]
    how: str
    last: Build | None


@dataclass(frozen=True)
class Totals:
    """What a plan will cost altogether.

    Args:
        seconds: of what will run, as far as it is known; None when nothing is known of it.
        tokens: of what will run, as far as it is known; None when nothing is known of it.
        most_seconds: of what will or may run, in the same way.
        most_tokens: of what will or may run, in the same way.
        never_ran: pending assets that never ran here.
        not_comparable: pending assets that ran only with settings that cost something else.
        tokens_unknown: pending assets whose seconds are known, but not their tokens.
    """

    seconds: float | None
    tokens: float | None
    most_seconds: float | None
    most_tokens: float | None
    never_ran: tuple[str, ...]
    not_comparable: tuple[str, ...]
    tokens_unknown: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        unknown = [
            f"{counted(len(names), 'asset')} never ran {where}"
            for names, where in ((self.never_ran, "here"), (self.not_comparable, "with such settings"))
            if names
        ]
        least, most = self._cost(self.seconds, self.tokens), self._cost(self.most_seconds, self.most_tokens)
        if least is None:  # no cost is known of what runs for certain
            known = [] if most is None else [f"about {most} for what may run"]
            return "; ".join([*known, *unknown])
        may_run = f", or {most} if all that may run does" if most not in (None, least) else ""
        return "; ".join([f"about {least}{may_run}", *unknown])

    def _cost(self, seconds: float | None, tokens: float | None) -> str | None:
        if seconds is None:
            return None
        return duration(seconds) + (
            f" and {'at least ' if self.tokens_unknown else ''}{amount(tokens)} tokens" if tokens else ""
        )


def estimates(found: Plan, project: Project) -> dict[str, Estimate]:
    """Estimate the cost of every asset of a plan, should it run.

    Args:
        found: the plan.
        project: what was planned.

    Returns:
        One estimate per asset, in the order of the plan.
    """
    store, graph, now = project.store, project.graph, resolved(project.config)
    costs: dict[str, Estimate] = {}
    for name in found.assets:
        node, prompts = graph.nodes[name], _prompts(graph.nodes[name], found, project)
        own, like = store.records(name), _like(node)
        costs[name] = estimate(node, own, now, prompts)
        if like and not any(map(_was_timed, own)):
            costs[name] = estimate(node, store.records(like), now, prompts, like)
    return costs


def _like(node: Node) -> str | None:
    """Return the asset whose builds say what a node costs while it has none of its own."""
    like = STAGES[node.stage].cost.like
    return (f"{like}_{node.category}" if node.category else like) if like else None


def estimate(
    node: Node,
    records: Iterable[Mapping[str, Any]],
    now: Mapping[str, Any],
    prompts: int | None = None,
    like: str | None = None,
) -> Estimate:
    """Estimate the cost of one asset.

    Args:
        node: the asset.
        records: of its earlier builds, newest first.
        now: the current configuration as plain data.
        prompts: prompts it will sample, where that is known.
        like: the asset whose builds they are, where they are not its own.
    """
    known = [record for record in records if _was_timed(record)]
    if not known:
        return Estimate(None, None, 0, (), "never ran here", None)
    last = None if like else _build(node, known[0], 1.0)
    config = from_resolved(now)
    models = [name for name in deciding(node, config) if name.startswith("models.")]
    silent = quiet(config, "")
    others = [_others(node, record.get("config"), now, models, silent) for record in known]
    same = [record for record, different in zip(known, others, strict=True) if not different][:_MOST_BUILDS]
    if not same:
        ran = f"never ran here, and {like} ran" if like else "ran"
        return Estimate(None, None, 0, (), f"{ran} only with other settings: {', '.join(others[0][:3])}", last)
    factors = [_factors(node, record, now, prompts, like is not None) for record in same]
    builds = [_build(node, record, _product(each)) for record, each in zip(same, factors, strict=True)]
    scaled = tuple(dict.fromkeys(name for each in factors for name in each))
    tokens = [build.tokens for build in builds if build.tokens is not None]
    how = ("1 build" if len(builds) == 1 else f"median of {len(builds)} builds") + (f" of {like}" if like else "")
    if scaled:
        how += f", scaled by {' and '.join(scaled)}"
    seconds = statistics.median(build.seconds for build in builds)
    return Estimate(seconds, statistics.median(tokens) if tokens else None, len(builds), scaled, how, last)


def totals(found: Plan, known: Mapping[str, Estimate]) -> Totals:
    """Add up what the pending assets of a plan will cost.

    Args:
        found: the plan.
        known: the estimates of its assets.
    """
    pending = [(asset, known[asset.name]) for asset in found.pending]
    sure = [each for asset, each in pending if asset.state == "will_run"]
    every = [each for _, each in pending]
    unknown = [(asset.name, each) for asset, each in pending if each.seconds is None]
    return Totals(
        _sum([each.seconds for each in sure]),
        _sum([each.tokens for each in sure]),
        _sum([each.seconds for each in every]),
        _sum([each.tokens for each in every]),
        tuple(name for name, each in unknown if each.last is None),
        tuple(name for name, each in unknown if each.last is not None),
        tuple(asset.name for asset, each in pending if each.seconds is not None and each.tokens is None),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """Add up what is known; None where that would be 0 because something is not known."""
    known = sum(value for value in values if value is not None)
    return None if not known and None in values else float(known)


def _others(
    node: Node, before: Mapping[str, Any] | None, now: Mapping[str, Any], models: Sequence[str], silent: Sequence[str]
) -> list[str]:
    """Return the settings that decide the cost, the models among them, and were different, as `name = earlier value`.

    A setting that the earlier configuration did not know, and that does what was done without it, is no difference.
    """
    stage = STAGES[node.stage]
    names = [name.format(member=node.category or node.suite) for name in stage.cost.decisive]
    names += models
    names += ["models.device", "models.threads"] if stage.heavy else []
    changed = differences(before, now, "") if before is not None else ()  # an older record is used unchanged
    return [
        f"{name[1:]} = {hidden(name, old)}"
        for name, old, _ in changed
        if any(f"{name}.".startswith(f".{each}.") for each in names) and not came_quietly(name, old, silent)
    ]


def _factors(
    node: Node, record: Mapping[str, Any], now: Mapping[str, Any], prompts: int | None, of_another: bool
) -> dict[str, float]:
    """Return the factors, if not 1, between an earlier build of the node, or of one like it, and the next one."""
    found: dict[str, float] = {}
    before, cost = record.get("config"), STAGES[node.stage].cost
    for name in cost.proportional:
        former = cost.like_settings.get(name, name) if of_another else name
        old, new = _size(before, former), _size(now, name)
        if old and new and old != new:
            found[name] = new / old
    sampled = _number(_metadata(record).get("prompts"))
    if cost.prompts and prompts and sampled and sampled != prompts:
        found["prompts"] = prompts / sampled
    return found


def _size(config: Mapping[str, Any] | None, name: str) -> float | None:
    value: Any = config
    for key in name.split("."):
        value = value.get(key, ABSENT) if isinstance(value, Mapping) else ABSENT
    return float(sum(value.values())) if isinstance(value, Mapping) else _number(value)


def _build(node: Node, record: Mapping[str, Any], factor: float) -> Build:
    metadata = _metadata(record)
    tokens = _number(metadata.get("tokens")) if STAGES[node.stage].cost.tokens else 0.0
    return Build(float(metadata["seconds"]) * factor, None if tokens is None else tokens * factor)


def _prompts(node: Node, found: Plan, project: Project) -> int | None:
    """Return how many prompts a stage that works through its data set will process, once that size is known."""
    cost = STAGES[node.stage].cost
    dataset = found.assets.get(node.inputs[0]) if cost.prompts else None
    if dataset is None or dataset.version is None:
        return None
    metadata = _metadata(project.store.manifest(dataset.name, dataset.version) or {})
    rows, copies = _number(metadata.get("rows")), _number(metadata.get("resampled"))
    if rows is None or copies is None:
        return None
    most = lazy(cost.most_prompts)(project.config, node.category) if cost.most_prompts else 0
    return min(int(rows - copies), most) if most else int(rows - copies)


def _metadata(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("metadata", {})


def _was_timed(record: Mapping[str, Any]) -> bool:
    return _number(_metadata(record).get("seconds")) is not None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _product(factors: Mapping[str, float]) -> float:
    product = 1.0
    for factor in factors.values():
        product *= factor
    return product
