"""Which prompts a file of demonstrations covers: a prompt without one is not used, and the user has to know.

Own prompts beside the shipped demonstrations are the common case: none of them is covered, and with a quota the shipped
prompts would take their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drirl_core import taxonomy
from drirl_core.config import EMBEDDED, Config
from drirl_core.graph.layout import source_path
from drirl_core.project import Project
from drirl_core.store.tables import prompt_id

if TYPE_CHECKING:
    from drirl_core.demonstrations.demonstrators import FileDemonstrator

WAY_OUT = (
    "add demonstrations of them to demonstrations.demonstrator.source, or have a model write them "
    "(demonstrations.demonstrator.kind: model or endpoint)"
)

_SENTENCE = f"{WAY_OUT[0].upper()}{WAY_OUT[1:]}; `drirl data` shows which."


@dataclass(frozen=True)
class Coverage:
    """How many prompts of one source the demonstrations cover.

    Args:
        source: name of the source.
        path: its file or folder.
        prompts: different usable prompts in it.
        uncovered: those of them without a demonstration.
        first: the first of these, empty when there is none.
    """

    source: str
    path: str
    prompts: int
    uncovered: int
    first: str


def read_coverage(config: Config) -> list[Coverage]:
    """Compare the user's own prompts with the file of demonstrations, before anything is built.

    Args:
        config: the configuration.

    Returns:
        One result per source of the user's own; none when a model or an endpoint writes the demonstrations.

    Raises:
        DataError: a file cannot be read.
        ConfigError: an adapter, a column map or the taxonomy cannot be used.
    """
    own = [source for source in config.prompt_sources if source.path != EMBEDDED]
    if config.demonstrations.demonstrator.kind != "file" or not own:
        return []
    from drirl_core.prompts.adapters import read_source
    from drirl_core.prompts.stage import check_row

    categories = taxonomy.load_categories(config.prompts.taxonomy)
    demonstrator = demonstrations_of(config, categories)
    found = []
    for source in own:
        path = source_path(source)
        read = read_source(source, path, categories, all_files=source not in config.prompts.sources)
        prompts = {
            prompt_id(row.prompt): row.prompt for row in read.rows if not check_row(row, config.prompts.max_chars)
        }
        missing = [text for text in prompts.values() if not demonstrator.covers(text)]
        found.append(Coverage(source.name, str(path), len(prompts), len(missing), missing[0] if missing else ""))
    return found


def demonstrations_of(config: Config, categories: tuple[str, ...]) -> FileDemonstrator:
    """Read the file of demonstrations and those of the drop folder.

    Args:
        config: the configuration, whose demonstrator is a file.
        categories: the harm categories.

    Raises:
        DataError: a file cannot be read.
        ConfigError: the column map cannot be used.
    """
    from drirl_core.demonstrations.demonstrators import FileDemonstrator
    from drirl_core.demonstrations.rows import read_dropped

    demonstrator, inbox = config.demonstrations.demonstrator, config.operations.inbox.source
    dropped = read_dropped(inbox, source_path(inbox)) if inbox else ()
    return FileDemonstrator(demonstrator, source_path(demonstrator.source), categories, dropped)


def warnings(config: Config, found: Sequence[Coverage]) -> list[str]:
    """Say which sources hold prompts that no demonstration covers; nothing for a source that is covered completely.

    Args:
        config: the configuration.
        found: what `read_coverage` returned.
    """
    source = config.demonstrations.demonstrator.source
    file = f"{source.name} ({'the shipped ones' if source.path == EMBEDDED else source.path})"
    quotas = map(config.demonstrations.quota_of, taxonomy.load_categories(config.prompts.taxonomy))
    instead = " and prompts of that file fill the quota in their place" if any(quotas) else ""
    return [
        f"{one.uncovered} of the {one.prompts} prompts of {one.source} have no demonstration in {file}: they are not "
        f"used,{instead or ' and nothing takes their place'}. {_SENTENCE}"
        for one in found
        if one.uncovered
    ]


def expected(project: Project, known: Mapping[str, str]) -> list[str]:
    """Say which prompts of the user's own a run does not use: from the data sets, or before them from the files.

    Args:
        project: the configuration, its graph and its store.
        known: version of each asset that is up to date.

    Returns:
        Sentences; none when every prompt is covered.

    Raises:
        DataError: a file cannot be read.
        ConfigError: an adapter or a column map cannot be used.
    """
    nodes = [node for node in project.graph.of("dataset") if node.category != taxonomy.HELPFUL]
    if not all(node.name in known for node in nodes):
        return warnings(project.config, read_coverage(project.config))
    made = {
        node.name: (project.store.manifest(node.name, known[node.name]) or {}).get("metadata", {}) for node in nodes
    }
    missing, prompts = (
        sum(int(found.get(key, 0)) for found in made.values()) for key in ("without_demonstration", "pool_prompts")
    )
    return [f"{missing} of the {prompts} prompts of the pool have no demonstration: they are not used. {_SENTENCE}"] * (
        missing > 0
    )


def report_lines(category: str, counts: Mapping[str, Any]) -> list[str]:
    """Say in the log of a data set which prompts of the pool it does not use.

    These are no warnings: the run said so for all categories before it started, and the check of the data set says it.

    Args:
        category: its category.
        counts: its counts, by the names of `counts.json`.
    """
    lines = []
    if missing := counts.get("without_demonstration", 0):
        lines.append(
            f"{missing} of {counts['pool_prompts']} {category} prompts of the pool have no demonstration and "
            f"are not used; {WAY_OUT}"
        )
    if repeated := counts.get("repeated_answers", 0):
        lines.append(f"{category}: {repeated} answers repeat another one word for word")
    return lines
