"""The graph as plain data: which assets a configuration has, and what each of them needs.

The assets follow from the records in `drirl_core.graph.stages`; this file knows the files that they are made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drirl_core import taxonomy
from drirl_core.config import EMBEDDED, INBOX, Config, SourceConfig
from drirl_core.config.reading import require
from drirl_core.errors import nearest
from drirl_core.graph.record import Stage
from drirl_core.graph.rounds import NUMBERS, policy_of, pool_of, start_of
from drirl_core.graph.stages import STAGES

DATA_FOLDER = Path(__file__).parents[1] / "data"
SHIPPED_SUITES = {EMBEDDED: DATA_FOLDER / "heldout", "twins": DATA_FOLDER / "heldout_twins"}
"""Folder of each suite that comes with the package; nothing is ever trained on their rows."""
INBOX_SOURCE = f"source_{INBOX}"
"""The files that the drop folder accepted."""


@dataclass(frozen=True)
class Node:
    """One asset.

    Args:
        name: name of the asset.
        stage: key into `STAGES`.
        category: the category it serves, `helpful` among them, or None.
        inputs: names of upstream assets and sources.
        description: one sentence for people.
        suite: the benchmark suite it serves, or None.
    """

    name: str
    stage: str
    category: str | None
    inputs: tuple[str, ...]
    description: str
    suite: str | None = None


@dataclass(frozen=True)
class Graph:
    """All assets of a configuration.

    Args:
        categories: harm categories in order.
        sources: input files by asset name `source_<name>`.
        nodes: assets in topological order.
    """

    categories: tuple[str, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that have an asset, in order."""
        return tuple(dict.fromkeys(node.stage for node in self.nodes.values()))

    def of(self, stage: str) -> list[Node]:
        """Return the assets of a stage, in order."""
        return [node for node in self.nodes.values() if node.stage == stage]


def build_graph(config: Config) -> Graph:
    """List the assets of a configuration, in topological order.

    Raises:
        ConfigError: the taxonomy cannot be read, or a setting names a category that is not in it.
    """
    categories, nodes = taxonomy.load_categories(config.prompts.taxonomy), {}
    for category in config.demonstrations.category_quota:
        _require_known(
            category, "demonstrations.category_quota", categories, helpful="use demonstrations.helpful_quota"
        )
    for category in config.leave_out.categories:
        _require_known(category, "leave_out.categories", categories, helpful="harmless prompts cannot be left out")
    require(
        len(config.leave_out.categories) < len(categories),
        "leave_out.categories names all harm categories, and no policy could learn to refuse; leave one in",
    )
    for name, stage in STAGES.items():
        if stage.when(config):
            nodes |= {node.name: node for node in _assets(name, stage, config, categories, nodes)}
    return Graph(categories, _sources(config), nodes)


def _require_known(category: str, setting: str, categories: Sequence[str], helpful: str) -> None:
    """Require that a setting names a harm category.

    Args:
        category: the name.
        setting: the setting that has it.
        categories: the harm categories.
        helpful: what to say where it is the name of the harmless set.
    """
    way_out = helpful if category == taxonomy.HELPFUL else nearest(category, categories)
    require(category in categories, f"{setting} names {category!r}, which is no harm category of this run; {way_out}")


def dataset_name(category: str) -> str:
    """Return the asset name of a category's data set."""
    return "helpful_dataset" if category == taxonomy.HELPFUL else f"safety_dataset_{category}"


def source_path(source: SourceConfig) -> Path:
    """Return the file of a source; `embedded` is the file of the source's name in the shipped data."""
    return DATA_FOLDER / f"{source.name}.jsonl" if source.path == EMBEDDED else Path(source.path)


def suite_folder(declared: str, path: str) -> Path:
    """Return where the rows of a suite are.

    Args:
        declared: name under which its rows are declared.
        path: its setting `path`; `embedded` means the rows that come with the package.

    Returns:
        A file or directory. For `embedded` and a suite that does not come with the package, the folder of the suite
        `embedded`: reading it then says that the suite is not shipped.
    """
    return SHIPPED_SUITES.get(declared, SHIPPED_SUITES[EMBEDDED]) if path == EMBEDDED else Path(path)


def _assets(
    name: str, stage: Stage, config: Config, categories: tuple[str, ...], made: Mapping[str, Node]
) -> Iterator[Node]:
    """Yield the assets of one stage.

    Args:
        name: the stage.
        stage: its record.
        config: the configuration.
        categories: harm categories.
        made: the assets of the stages before it.
    """
    members: Mapping[str, tuple[str | None, ...]] = {
        "run": (None,),
        "category": (*categories, taxonomy.HELPFUL),
        "harm_category": categories,
        "suite": tuple(suite.name for suite in config.benchmarks.suites),
    }
    for member in members[stage.per]:
        harmless = member == taxonomy.HELPFUL and stage.per == "category"
        inputs = dict.fromkeys(need for named in stage.inputs for need in _needs(named, stage, member, config, made))
        yield Node(
            _name(name, member),
            name,
            member if stage.per_category else None,
            tuple(inputs),
            ((harmless and stage.helpful_description) or stage.description).format(member=member),
            member if stage.per == "suite" else None,
        )


def _name(stage: str, member: str | None) -> str:
    if stage == "dataset" and member:
        return dataset_name(member)
    return f"{stage}_{member}" if member else stage


def _needs(named: str, stage: Stage, member: str | None, config: Config, made: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the inputs that a record calls by one name; none of a stage that this configuration does without."""
    if named in INPUTS:
        return INPUTS[named](config, member)
    if named not in STAGES:
        raise ValueError(f"{named!r} is neither a stage nor one of {', '.join(INPUTS)}")
    other = STAGES[named]
    same = (stage.per_category and other.per_category) or stage.per == other.per == "suite"
    return tuple(
        node.name
        for node in made.values()
        if node.stage == named and (not same or member in (node.category, node.suite))
    )


# ------------------------------------------------------------------------------------------------------------- sources


def _source(source: SourceConfig) -> str:
    return f"source_{source.name}"


def suite_source(suite: str) -> str:
    """Return the asset name of a suite's files."""
    return f"source_suite_{suite}"


def _sources(config: Config) -> dict[str, Path]:
    """Return the file of every source, by asset name."""
    demonstrations, demonstrator = config.demonstrations, config.demonstrations.demonstrator
    sources = [*config.prompt_sources, demonstrations.helpful, demonstrations.refusals, *config.label_sources]
    found = {_source(source): source_path(source) for source in sources}
    for suite in config.benchmarks.suites:
        found[suite_source(suite.name)] = suite_folder(suite.declared, suite.path)
    if demonstrator.kind == "file":
        found[_source(demonstrator.source)] = source_path(demonstrator.source)
    return found


def _prompt_sources(config: Config, member: str | None) -> tuple[str, ...]:
    return tuple(map(_source, config.prompt_sources))


def _suite_sources(config: Config, member: str | None) -> tuple[str, ...]:
    return tuple(suite_source(suite.name) for suite in config.benchmarks.suites)


def _own_suite(config: Config, member: str | None) -> tuple[str, ...]:
    return (suite_source(str(member)),)


def _harmless_rows(config: Config, member: str | None) -> tuple[str, ...]:
    """Return the files of harmless prompts and refusals, and the unsafe prompts, whose twins go into the same split."""
    if member != taxonomy.HELPFUL:
        return ()
    demonstrations = config.demonstrations
    unsafe = map(dataset_name, taxonomy.load_categories(config.prompts.taxonomy))
    return (*unsafe, _source(demonstrations.helpful), _source(demonstrations.refusals))


def _demonstration_rows(config: Config, member: str | None) -> tuple[str, ...]:
    """Return the file of demonstrations, and the drop folder, whose files may hold some too."""
    demonstrator = config.demonstrations.demonstrator
    if member == taxonomy.HELPFUL or demonstrator.kind != "file":
        return ()
    dropped = any(source.name == INBOX for source in config.prompt_sources)
    return (_source(demonstrator.source), *((INBOX_SOURCE,) if dropped else ()))


def _labelled_rows(config: Config, member: str | None) -> tuple[str, ...]:
    """Return the files of labels, and all data sets, whose held-out prompts no label may teach."""
    categories = (*taxonomy.load_categories(config.prompts.taxonomy), taxonomy.HELPFUL)
    return (*map(_source, config.label_sources), *map(dataset_name, categories))


def _sampled_start(config: Config, member: str | None) -> tuple[str, ...]:
    return ("sft_checkpoint",) if config.completions.samples.get("sft", 0) else ()


def _contrast_answers(config: Config, member: str | None) -> tuple[str, ...]:
    wanted = config.completions.contrast.get("compliance", 0) and member != taxonomy.HELPFUL
    return (dataset_name(taxonomy.HELPFUL),) if wanted else ()


def _start_of(number: int) -> Callable[[Config, str | None], tuple[str, ...]]:
    """Return what says where the policy of a round starts."""

    def start(config: Config, member: str | None) -> tuple[str, ...]:
        if number > 1 and config.rewards.round_start == "previous":
            return (policy_of(number - 1),)
        return ("sft_checkpoint",) if config.policy.start == "sft" else ()

    return start


def _start(config: Config, member: str | None) -> tuple[str, ...]:
    return _start_of(config.rewards.rounds)(config, member)


def _pool_of_the_start(config: Config, member: str | None) -> tuple[str, ...]:
    """Return the pool that has completions of the policy that the last round starts from."""
    moved = config.rewards.rounds > 1 and config.rewards.round_start == "previous"
    return (f"{pool_of(config.rewards.rounds - 1) if moved else 'completion_pool'}_{member}",)


def _propositions(config: Config, member: str | None) -> tuple[str, ...]:
    return ("proposition_reward",) if config.policy.reward == "propositions" else ()


INPUTS: Mapping[str, Callable[[Config, str | None], tuple[str, ...]]] = {
    "prompt sources": _prompt_sources,
    "suite sources": _suite_sources,
    "own suite": _own_suite,
    "harmless rows": _harmless_rows,
    "demonstration rows": _demonstration_rows,
    "labelled rows": _labelled_rows,
    "sampled start": _sampled_start,
    "contrast answers": _contrast_answers,
    "rewards of propositions": _propositions,
    "start": _start,
    "pool of the start": _pool_of_the_start,
    **{start_of(number): _start_of(number) for number in NUMBERS},
}
"""Inputs of a stage that are not simply all assets of another one, by what a record calls them.

Each function takes the configuration and the category or suite of the asset.
"""
