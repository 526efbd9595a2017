"""Wait for something that another process does."""

import time


def wait_for(look, seconds: float = 60.0):
    """Return the first true value that `look` gives, or fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came within {seconds} s")
