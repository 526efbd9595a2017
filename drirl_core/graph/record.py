"""What a stage is: the record that declares one, and how its functions are found."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from drirl_core.config import Config

Per = Literal["run", "category", "harm_category", "suite"]


def _always(config: Config) -> bool:
    return True


def _nothing(config: Config) -> tuple[str, ...]:
    return ()


def _never(config: Config) -> bool:
    return False


@dataclass(frozen=True)
class MainTable:
    """The table whose rows and columns represent an asset.

    Args:
        file: its name in the artifact.
        columns: what each column means, in the order of the table.
    """

    file: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """What the seconds and tokens of a stage follow, for an estimate from earlier builds.

    Args:
        proportional: settings that they follow in proportion; of a mapping the sum counts.
        decisive: settings that decide them, but not in proportion: a build under another value says nothing.
            `{member}` is the category or suite.
        tokens: whether the stage trains on tokens or generates them.
        prompts: whether they follow the number of prompts of its first input, a data set.
        most_prompts: `module:name` of the function that says, from the configuration and the category, how many of
            these it works through at most, 0 for all; imported on use; empty where it always takes all.
        like: stage whose builds, of the same category, count while this one has none of its own.
        like_settings: of the settings in `proportional`, the one that the builds of `like` follow instead.
    """

    proportional: tuple[str, ...] = ()
    decisive: tuple[str, ...] = ()
    tokens: bool = False
    prompts: bool = False
    most_prompts: str = ""
    like: str = ""
    like_settings: Mapping[str, str] = field(default_factory=dict)


class Batch(NamedTuple):
    """A training batch that processes may share.

    Args:
        rows: of the batch.
        unit: rows that must stay in one process.
        setting: that gives the rows, for messages.
    """

    rows: int
    unit: int
    setting: str

    def processes(self, most: int) -> int:
        """Return the largest number of processes, `most` or fewer, among which the batch divides evenly."""
        return next(count for count in range(max(1, most), 0, -1) if count == 1 or self.rows % (count * self.unit) == 0)


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Args:
        function: `module:name` of the function that builds it, imported on use because it may load torch.
        version: raised when the algorithm changes, which makes every artifact of the stage stale.
        config: dotted sections of the configuration that decide its result.
        group: group in the asset graph.
        heavy: whether it trains or samples (needs a GPU).
        volatile: files whose bytes may differ between equal results.
        unread: dotted settings below `config` that this stage does not read, or that decide no result.
        per: what it has one asset of: the run, each category with `helpful`, each harm category, or each suite.
        inputs: what it is made from: stages above it in the table (an asset per category or suite takes that of its
            own category or suite, any other asset takes all of them) and names of `drirl_core.graph.layout.INPUTS`.
        description: one sentence for people; `{member}` is the category or suite.
        helpful_description: the sentence for the category `helpful`, where it differs.
        when: whether a configuration has the stage at all.
        config_when: dotted sections that decide its result besides `config`, depending on the configuration.
        table: its main table; None where it has none.
        cost: what its cost follows.
        checks: `module:name` of the rules that its artifacts must keep, imported on use; empty where there are none.
        batch: `module:name` of the function that returns the `Batch` of a configuration, which several processes may
            share; imported on use; empty where one process does all the work.
        excluded: `module:name` of the function that says what the suites keep out of its artifacts: they count by that
            instead of by their own rows (`drirl_core.graph.exclusion`); empty where they count by their rows.
        safety_policy: whether it reads the safety policy: the text of its own category, or all where it has none.
        judge_error: whether it shows the recorded error of the judge behind an endpoint, where there is one.
    """

    function: str
    version: str
    config: tuple[str, ...]
    group: str
    heavy: bool = False
    volatile: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    per: Per = "run"
    inputs: tuple[str, ...] = ()
    description: str = ""
    helpful_description: str = ""
    when: Callable[[Config], bool] = _always
    config_when: Callable[[Config], tuple[str, ...]] = _nothing
    table: MainTable | None = None
    cost: Cost = Cost()
    checks: str = ""
    batch: str = ""
    excluded: str = ""
    safety_policy: Callable[[Config], bool] = _never
    judge_error: Callable[[Config], bool] = _never

    @property
    def per_category(self) -> bool:
        """Whether it has one asset per category."""
        return self.per in ("category", "harm_category")


def lazy(name: str) -> Any:
    """Import what `module:name` names; a record holds such names, so that reading it imports nothing heavy."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
