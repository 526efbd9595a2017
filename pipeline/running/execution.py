"""One Dagster run in a separate thread.

In the main thread, Dagster would handle Ctrl-C itself, and only between steps. Running it in another thread leaves the
main thread free to react at once.
"""

import contextlib
import threading
import uuid
from collections.abc import Sequence
from typing import Any

import dagster as dg

from drirl_core.project import Project
from pipeline.running.launch import QUIET_TAG, stop_run
from pipeline.running.origin import record_in_location
from pipeline.running.owner import OWNER_TAG, owner_tag
from pipeline.wiring.factories import all_definitions

_STOP_TIMEOUT_S = 30.0


class Execution:
    """A run in the background, while the caller does other things.

    Args:
        instance: where the run is recorded.
        project: the configuration and its graph.
        names: assets the run contains.
    """

    def __init__(self, instance: dg.DagsterInstance, project: Project, names: Sequence[str]) -> None:
        self.run_id, self.success = str(uuid.uuid4()), False
        self.instance, self._error, self._done = instance, None, threading.Event()
        # With a retry policy, Dagster would treat an interrupt as a failure and start the step again.
        # This run promotes nothing, so a failed gate is only a warning.
        self._job = all_definitions(project, retry=None, gates_block=False).resolve_implicit_global_asset_job_def()
        record_in_location(instance, self._job.name)
        self._settings: dict[str, Any] = {
            "asset_selection": [dg.AssetKey(name) for name in names],
            "run_config": {
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}
            },  # the listener reports failures
            "tags": {
                OWNER_TAG: owner_tag(self.run_id),
                QUIET_TAG: "true",
                "dagster/max_retries": "0",
                "drirl/config": project.config.name,
            },
        }
        threading.Thread(target=self._execute, name="dagster-run", daemon=True).start()

    def _execute(self) -> None:
        try:
            result = self._job.execute_in_process(
                instance=self.instance, run_id=self.run_id, raise_on_error=False, **self._settings
            )
            self.success = result.success
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def ended(self, timeout_s: float) -> bool:
        """Wait until the run ends, at most `timeout_s` seconds.

        Raises:
            Exception: Dagster itself failed.
        """
        done = self._done.wait(
            timeout_s
        )  # not Thread.join: after Ctrl-C, Python 3.11 wrongly considers the thread dead
        if self._error is not None and not isinstance(self._error, dg.DagsterExecutionInterruptedError):
            raise self._error
        return done

    def stop(self) -> bool:
        """Make the running step stop its worker, and record the run as cancelled.

        Returns:
            Whether the run ended. A run that waits for a slot in the GPU pool does not end; it is recorded as
            cancelled, and its thread ends with this process. A second Ctrl-C ends the wait.
        """
        run = self.instance.get_run_by_id(self.run_id)
        if run and not run.is_finished and run.status is not dg.DagsterRunStatus.CANCELING:
            self.instance.report_run_canceling(run, "Stopped by the user.")
        stop_run(self.run_id)  # last: if a step ends before the run is marked as cancelling, the run counts as failed
        with contextlib.suppress(KeyboardInterrupt):
            if self.ended(_STOP_TIMEOUT_S):
                return True
        run = self.instance.get_run_by_id(self.run_id)
        if run and not run.is_finished:
            self.instance.report_run_canceled(run, "Stopped by the user.")
        self.instance.event_log_storage.free_concurrency_slots_for_run(self.run_id)
        return False
