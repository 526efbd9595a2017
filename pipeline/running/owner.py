"""The process that owns a run: enough about it to check later, from another process, whether it is still alive."""

import json
import os
import socket
from pathlib import Path

import dagster as dg

OWNER_TAG = "drirl/owner"
"""Tag of runs without a code server: JSON with host, process id and start time of the process."""


def owner_tag(run_id: str = "") -> str:
    """Describe this process for `OWNER_TAG`.

    Args:
        run_id: the run that it owns; a run that is started again from the web page takes over the tags of the first.
    """
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    return json.dumps({**owner, "run": run_id} if run_id else owner)


def own_tag(run: dg.DagsterRun) -> str | None:
    """Return the owner's tag of a run, unless it was taken over from another run."""
    tag = run.tags.get(OWNER_TAG)
    return tag if tag and json.loads(tag).get("run", run.run_id) == run.run_id else None


def owner_is_gone(tag: str | None) -> bool:
    """Return whether the described process is certainly gone.

    Args:
        tag: a value of `owner_tag`, or None.

    Returns:
        False when there is no tag or the process lives on another host; a process id that now belongs to a new
        process counts as gone.
    """
    if not tag:
        return False
    owner = json.loads(tag)
    if owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return owner["started"] != _started(owner["pid"])
    return owner["started"] != _started(owner["pid"])


def _started(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot; empty when /proc does not provide it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
