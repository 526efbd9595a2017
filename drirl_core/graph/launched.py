"""Build an asset in processes that somebody else started together: torchrun, `accelerate launch`, or a cluster.

Each of them runs the same command, with its place among them in the environment (RANK, WORLD_SIZE, LOCAL_RANK and the
address where they meet), on one machine or on several. The first one looks up, reports and publishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.errors import ConfigError, nearest
from drirl_core.graph.build import build, context_of
from drirl_core.graph.group import join_group, leave_group
from drirl_core.graph.planned import Named
from drirl_core.graph.record import Batch, lazy
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import source_version
from drirl_core.reporting import Reporter, SilentReporter
from drirl_core.store.artifacts import Artifact, Workspace

if TYPE_CHECKING:
    from drirl_core.config import ModelsConfig
    from drirl_core.graph.layout import Node
    from drirl_core.project import Project

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that say where a process is among the others, and where they meet."""
_OF_MPI: Mapping[str, tuple[str, ...]] = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "LOCAL_WORLD_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}
"""The names that Open MPI, and MPICH and Intel MPI, have for them: `accelerate launch --cpu` starts mpirun."""
_DECIDED: Mapping[str, str] = {
    "ACCELERATE_USE_FSDP": "--use_fsdp; execution.sharding divides the weights",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed, which is not supported; execution.sharding divides the weights",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm, which is not supported",
    "ACCELERATE_MIXED_PRECISION": "--mixed_precision; models.dtype and models.device decide how is computed",
    "ACCELERATE_DYNAMO_BACKEND": "--dynamo_backend; the options of TRL decide about it (torch_compile)",
}
"""Variables by which `accelerate launch` says what it was asked for beside processes, and what decides it here."""


def place_of_mpi(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the place of a process that mpirun started, under the names that torchrun uses.

    Args:
        variables: the environment.

    Returns:
        Those of RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE that are not in the environment and that MPI gives.
    """
    given = {name: [variables[other] for other in others if other in variables] for name, others in _OF_MPI.items()}
    return {name: values[0] for name, values in given.items() if values and name not in variables}


def build_launched(
    name: str,
    project: Project,
    variables: Mapping[str, str],
    reporter: Reporter,
    versions: Mapping[str, str] | None = None,
) -> Artifact | None:
    """Build an asset together with the other processes; each of them calls this with its own variables.

    Args:
        name: of the asset, a training of the configuration. What it is made from is built already.
        project: the configuration, its graph and its store.
        variables: the environment.
        reporter: where the first process sends progress.
        versions: of the asset's inputs; None for what the configuration plans.

    Returns:
        The artifact in the first process, and None in the others.

    Raises:
        ConfigError: this is no process among others, the asset is no training that they can share, or the launcher was
            asked for something that the configuration decides.
        ArtifactError: an input is not built.
        DrirlError: the stage failed.
    """
    node = _shared_node(name, project)
    index, count, local = _place(variables, project.config.models)
    _require_even_shares(node, project, count)
    if versions is None:
        versions = _inputs(node, project) if index == 0 else {}  # say what is missing before others are waited for
    join_group(project.config.models, "env://", index, count, local)
    made = _first(node, project, versions, reporter, count) if index == 0 else _other(node, project, index, count)
    leave_group()
    return made


def _inputs(node: Node, project: Project) -> dict[str, str]:
    """Return the version of each input as the configuration plans it."""
    sources = {name: path for name, path in project.graph.sources.items() if name in node.inputs}
    built = Named(project).open(*(name for name in node.inputs if name not in sources))
    versions = {name: source_version(path) for name, path in sources.items()}
    return versions | {name: artifact.version for name, artifact in built.items()}


def _first(node: Node, project: Project, versions: Mapping[str, str], reporter: Reporter, count: int) -> Artifact:
    """Look the asset up, build it with the others if it is not there, and publish it."""
    started = False

    def run(
        node: Node, project: Project, versions: Mapping[str, str], workspace: Workspace, reporter: Reporter, key: str
    ) -> dict[str, Any]:
        nonlocal started
        started = True
        _tell({"versions": dict(versions), "out": str(workspace.out), "scratch": str(workspace.scratch), "key": key})
        context = context_of(node, project, versions, workspace, reporter, key=key, process=0, processes=count)
        return lazy(STAGES[node.stage].function)(context)

    artifact, _, _ = build(node, project, versions, reporter, run)
    if not started:  # it was there, so that the others have nothing to do
        _tell(None)
    return artifact


def _other(node: Node, project: Project, index: int, count: int) -> None:
    """Do the part of another process, as the first one says."""
    job = _tell(None)
    if job is None:
        return
    workspace = Workspace(Path(job["out"]), Path(job["scratch"]))
    place = {"key": job["key"], "process": index, "processes": count}
    context = context_of(node, project, job["versions"], workspace, SilentReporter(), **place)
    lazy(STAGES[node.stage].function)(context)


def _tell(job: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return in every process what the first one passes."""
    import torch

    told = [job]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


def _shared_node(name: str, project: Project) -> Node:
    shared = [node.name for node in project.graph.nodes.values() if STAGES[node.stage].batch]
    if name not in shared:
        raise ConfigError(
            f"{name!r} is no training of this configuration that several processes share; {nearest(name, shared)}"
        )
    return project.graph.nodes[name]


def _place(variables: Mapping[str, str], models: ModelsConfig) -> tuple[int, int, int]:
    """Return the index of this process, the number of all, and the index on its machine."""
    from drirl_core.models.loading import device_of

    for variable, instead in _DECIDED.items():
        if _asked(variables, variable):
            raise ConfigError(f"accelerate was started with {instead}; start it without that")
    lacking = [name for name in PLACE if name not in variables]
    if lacking and "ACCELERATE_MIXED_PRECISION" in variables:
        raise ConfigError(
            f"accelerate started one process and did not say its place ({', '.join(lacking)}): with --cpu, or a file "
            "with use_cpu or without multi_gpu, it starts several by mpirun alone (--mpirun_hostfile). Start it with "
            "--multi_gpu --num_processes N, on a machine without GPUs too, where the processes compute on the CPU; or "
            "take torchrun, or `drirl run`, which starts execution.processes by itself"
        )
    if lacking:
        raise ConfigError(
            f"{', '.join(lacking)} {'are' if len(lacking) > 1 else 'is'} not in the environment, so that this is no "
            "process among others; start it by torchrun or `accelerate launch`, or build with `drirl run`, which "
            "starts execution.processes by itself"
        )
    if _asked(variables, "ACCELERATE_USE_CPU") and device_of(models).type != "cpu":
        raise ConfigError(
            f"accelerate was started with --cpu (or use_cpu), but models.device is {models.device!r}, which takes the "
            "GPU and decides here; set it to cpu, or start without --cpu"
        )
    index, count, local = (int(variables[name]) for name in PLACE[:3])
    return index, count, local


def _asked(variables: Mapping[str, str], variable: str) -> bool:
    return variables.get(variable, "").lower() not in ("", "no", "false")


def _require_even_shares(node: Node, project: Project, count: int) -> None:
    batch: Batch = lazy(STAGES[node.stage].batch)(project.config)
    if count == 1 and project.config.execution.sharding != "none":
        raise ConfigError(
            f"execution.sharding is {project.config.execution.sharding!r}, which divides weights among processes, but "
            "one process was started; start two or more, or set execution.sharding to none"
        )
    most = batch.processes(count)
    if most < count:
        raise ConfigError(
            f"{count} processes were started, but {batch.setting} is {batch.rows}"
            f"{f' in units of {batch.unit}' if batch.unit > 1 else ''}, which they cannot share evenly; start {most}, "
            f"or change {batch.setting}"
        )
