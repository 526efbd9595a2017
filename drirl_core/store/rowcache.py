"""Rows stored under a content key, so that after changing ten prompts only ten are sampled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from drirl_core.errors import ArtifactError


def content_key(*parts: object) -> str:
    """Hash the parts that determine a row; JSON data only."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class RowCache:
    """A table from content key to bytes in one SQLite file; safe after crashes and between processes.

    Args:
        path: the file; made on first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._transaction() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, value BLOB NOT NULL)")

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the stored rows among `keys`, by key."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, bytes] = {}
        with self._transaction() as connection:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                marks = ",".join("?" * len(part))
                found.update(connection.execute(f"SELECT key, value FROM rows WHERE key IN ({marks})", part))  # noqa: S608
        return found

    def put_many(self, rows: Mapping[str, bytes]) -> None:
        """Store rows in one transaction; a key that exists keeps its value."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", rows.items())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                yield connection
        except sqlite3.OperationalError as error:  # full, read-only, or locked by a process that hangs
            raise ArtifactError(
                f"row cache {self.path} cannot be used ({error}); check its disk, permissions and other runs"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ArtifactError(
                f"row cache {self.path} is damaged ({error}); delete the file, its rows are recomputed"
            ) from error
