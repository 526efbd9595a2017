"""A run launcher that notices when the process of a run has died.

With Dagster's default launcher, a run whose processes were all killed stays "started" forever: it keeps its slot in
the GPU pool and blocks automation. Two kinds of run are checked: runs of a code server, which owns a socket, and runs
of `drirl run`, whose process id is in a tag.
"""

import json
import socket

import dagster as dg

from pipeline.running.owner import own_tag, owner_is_gone
from pipeline.wiring.private import CheckRunHealthResult, WorkerStatus

_CODE_SERVER_TAG = ".dagster/grpc_info"
_TIMEOUT_S = 5.0


class HealthCheckedLauncher(dg.DefaultRunLauncher):
    """Dagster's default launcher, with a health check for the run monitor."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Tell the run monitor that this launcher supports health checks."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Report a run as failed only when its process is certainly gone; in doubt it counts as running.

        Args:
            run: a run that is recorded as started.
        """
        if owner_is_gone(own_tag(run)):
            return CheckRunHealthResult(WorkerStatus.FAILED, "the process that ran this run is gone")
        path = json.loads(run.tags.get(_CODE_SERVER_TAG, "{}")).get("socket")
        if path and _nobody_listens(path):
            return CheckRunHealthResult(WorkerStatus.FAILED, "the code server that ran this run is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _nobody_listens(path: str) -> bool:
    # Test the socket, not the server: after a reload, the proxy does not know the runs of the servers it replaced.
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return True
    except OSError:
        return False
    return False
