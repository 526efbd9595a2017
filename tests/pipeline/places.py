"""Directories that tests and their child processes start from, and patience with those processes."""

import time
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def wait_for(look, seconds: float = 60.0):
    """Return the first true value that `look` gives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came within {seconds} s")
