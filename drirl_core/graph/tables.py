"""Open the tables of a run as pandas DataFrames, for notebooks and your own studies."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from drirl_core.config import Config, load_config
from drirl_core.config.place import anchored, find_config
from drirl_core.errors import ArtifactError, DataError, nearest
from drirl_core.graph.layout import Graph
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from drirl_core.store.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    import pandas as pd

_TABLES = (".parquet", ".jsonl")


def open_table(
    name: str,
    *,
    config: Config | str | Path = "configs/demo.yaml",
    table: str | None = None,
    version: str | None = None,
) -> pd.DataFrame:
    """Open a table of any asset as a pandas DataFrame.

    `open_table("benchmark_embedded")` opens the main table of the newest version, whatever its settings were.

    Args:
        name: name of the asset, as the asset graph and `drirl plan` show it.
        config: settings of the run, whose `root` says where its artifacts are: a YAML file (in the working directory,
            else in the project), or a `Config`, which is used unchanged.
        table: file of the asset, such as `quarantine.parquet` or `training_log.jsonl`; None opens the main table.
        version: version of the asset; None opens the one that was made or reused last.

    Returns:
        The rows in the order of the file. `attrs` holds `asset`, `version` and `path`.

    Raises:
        ArtifactError: there is no such asset, version or table, or none was made yet; the message says what there is.
        ConfigError: the configuration cannot be used.
        DataError: the asset is an input of the run and has no table, or the file is damaged.
    """
    settings = config if isinstance(config, Config) else anchored(load_config(find_config(Path(config))))
    project = Project(settings)
    graph, store = project.graph, project.store
    if name in graph.sources:
        raise DataError(
            f"{name} is an input of the run, not a table that it made; read {graph.sources[name]} itself, or open "
            "the tables made from it, such as open_table('prompt_pool')"
        )
    command = f"drirl run{'' if isinstance(config, Config) else f' {config}'} --only {name}"
    artifact = _artifact(name, version, graph, store, command)
    file = artifact.path / _chosen(artifact, table)
    frame = _read(file)
    frame.attrs = {"asset": name, "version": artifact.version, "path": str(file)}
    return frame


def _artifact(name: str, version: str | None, graph: Graph, store: ArtifactStore, command: str) -> Artifact:
    """Return a version of an asset, the newest by default."""
    known = [str(record["version"]) for record in store.records(name)]
    if not known and name not in graph.nodes:
        raise ArtifactError(f"there is no asset {name!r}; {nearest(name, graph.nodes)}")
    if not known:
        made = ", ".join(other for other in graph.nodes if store.was_made(other)) or "nothing"
        raise ArtifactError(
            f"{name} was not made yet under {store.place}; make it with `{command}`. Made there: {made}"
        )
    if version is not None and version not in known:
        raise ArtifactError(f"{name} has no version {version!r} under {store.place}; {nearest(version, known)}")
    found = store.open(name, version) if version else store.latest(name)
    if found is None:
        raise ArtifactError(
            f"the newest version of {name} under {store.place} is gone or damaged; make it again with `{command}`"
        )
    return found


def _chosen(artifact: Artifact, table: str | None) -> str:
    """Return the name of a table of an artifact, of its main one by default."""
    tables = [name for name in artifact.manifest["files"] if PurePosixPath(name).suffix in _TABLES]
    if not tables:
        raise ArtifactError(f"{artifact.asset} holds no table; its files are in {artifact.path}")
    if table is None:
        mains = [stage.table.file for stage in STAGES.values() if stage.table]
        main = next((name for name in mains if name in tables), None)
        if main is None:
            raise ArtifactError(
                f"{artifact.asset} has no main table; name one of its tables with table=...: "
                f"{', '.join(sorted(tables))}"
            )
        return main
    if table not in tables:
        raise ArtifactError(f"{artifact.asset} has no table {table!r}; {nearest(table, tables)}")
    return table


def _read(file: Path) -> pd.DataFrame:
    from drirl_core.store.tables import read_frame, read_frame_of_lines

    return read_frame(file) if file.suffix == ".parquet" else read_frame_of_lines(file)
