"""Read what a worker reports, line by line, while it runs.

Dagster's own file reader parses the end of the file even when a line (a table, a picture) is not yet written
completely; the parser then fails and all later messages are lost. This reader waits for the end of the line, and polls
five times per second instead of a hundred.
"""

import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter

_INTERVAL_S = 0.2


class LineReader(dg.PipesMessageReader):
    """Follow a temporary file and pass each finished line to Dagster."""

    expected_writer_count = 1

    @contextlib.contextmanager
    def read_messages(self, handler: Any) -> Iterator[dict[str, Any]]:
        """Follow the file in a thread until the block ends, then read what is left.

        Args:
            handler: receives each message.

        Yields:
            Parameters that the worker needs to write messages.
        """
        with tempfile.TemporaryDirectory(prefix="drirl-pipes-") as folder:
            path = Path(folder) / "messages"
            path.touch()
            finished = threading.Event()
            thread = threading.Thread(
                target=_follow, args=(path, handler, finished), daemon=True, name="pipes-messages"
            )
            thread.start()
            try:
                yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(path)}
            finally:
                finished.set()
                thread.join()

    def no_messages_debug_text(self) -> str:
        """Return where messages were expected, for Dagster's error message."""
        return "Messages were expected in a temporary file."


def _follow(path: Path, handler: Any, finished: threading.Event) -> None:
    with path.open("rb") as file:
        rest = b""
        while True:
            last = finished.wait(_INTERVAL_S)
            rest = _hand_over(file, rest, handler)
            if last:
                return


def _hand_over(file: BinaryIO, rest: bytes, handler: Any) -> bytes:
    """Pass on all finished lines; return the beginning of an unfinished one."""
    *lines, rest = (rest + file.read()).split(b"\n")
    for line in lines:
        try:
            handler.handle_message(json.loads(line))
        except Exception:  # one bad message must not stop the later ones
            handler.report_pipes_framework_exception("LineReader", sys.exc_info())
    return rest
