"""Read what a worker reports, line by line, while it runs.

Dagster's own file reader parses whatever it finds at the end of the file; a line that is still being written (a table,
a picture) then breaks the parser and every later message is lost. This one waits for the end of the line, and looks
five times a second instead of a hundred.
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
    """Follow a temporary file and hand each finished line to Dagster."""

    expected_writer_count = 1

    @contextlib.contextmanager
    def read_messages(self, handler: Any) -> Iterator[dict[str, Any]]:
        """Follow the file in a thread until the block ends, then read what is left.

        Args:
            handler: takes each message.

        Yields:
            What the worker needs to know to write messages.
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
        """Say where messages were expected."""
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
    """Hand over all finished lines; return the beginning of an unfinished one."""
    *lines, rest = (rest + file.read()).split(b"\n")
    for line in lines:
        try:
            handler.handle_message(json.loads(line))
        except Exception:  # one bad message must not silence the worker
            handler.report_pipes_framework_exception("LineReader", sys.exc_info())
    return rest
