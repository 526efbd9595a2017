"""Which code location a run of `drirl run` belongs to: the one that the web page loads.

Dagster's overview leaves out runs that belong to no code location, and a run in the same process as its job belongs to
none by itself.
"""

import functools
import sys

import dagster as dg

from pipeline.instance.settings import ROOT
from pipeline.wiring.private import (
    LoadableTargetOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

LOCATION, MODULE = "drirl", "pipeline.definitions"
"""Name and module of the code location, as workspace.yaml has them."""
REPOSITORY = "__repository__"
"""Dagster's name for the definitions of a module."""


def origin_of(job: str) -> RemoteJobOrigin:
    """Describe a job as part of the code location.

    Args:
        job: its name.
    """
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE, working_directory=str(ROOT))
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, REPOSITORY), job)


def record_in_location(instance: dg.DagsterInstance, job: str) -> None:
    """Make the runs that this instance object records belong to the code location.

    `execute_in_process` records its run by itself and takes no origin.

    Args:
        instance: of this process alone.
        job: name of the job that it runs.
    """
    create = functools.partial(instance.create_run_for_job, remote_job_origin=origin_of(job))
    instance.create_run_for_job = create  # type: ignore[method-assign]
