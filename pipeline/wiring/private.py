"""All private names of Dagster that are used, in this one file: it shows what an upgrade may break.

Staleness by data version, the health of a run's process and the code location that a run belongs to have no public
interface in Dagster 1.13. The tests of `pipeline.wiring.conditions`, `pipeline.running.launcher` and
`pipeline.running.origin` check what the names do; this file checks that they exist.
"""

import dagster as dg

TESTED_VERSION = "1.13.27"

try:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
    from dagster._core.remote_origin import (
        ManagedGrpcPythonEnvCodeLocationOrigin,
        RemoteJobOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
except ImportError as error:
    raise ImportError(
        f"drirl uses private names of Dagster and was tested with {TESTED_VERSION}; {dg.__version__} does not "
        f"have them all ({error}). "
        f"Install dagster~={TESTED_VERSION}"
    ) from error

__all__ = [
    "NO_CAPTURE",
    "TESTED_VERSION",
    "CachingStaleStatusResolver",
    "CheckRunHealthResult",
    "LoadableTargetOrigin",
    "ManagedGrpcPythonEnvCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "StaleStatus",
    "WorkerStatus",
]

NO_CAPTURE = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
"""Setting `compute_logs` of an instance that does not capture the output of its process."""
