"""The drop folder: files that people drop are validated, then moved to `accepted` or `rejected`, each exactly once.

Layout of `operations.inbox.folder`::

    prompts.csv                                       dropped, not looked at yet
    accepted/<id>-prompts.csv                         rows of the source `inbox`
    rejected/<id>-prompts.csv, <same>.reason.txt      not accepted, and why

`<id>` is the beginning of the content's SHA-256. A file is accepted by one rename and by nothing else, so the folder of
accepted files is the ledger: after a crash around the rename, the file is either still waiting or accepted. A reason is
written before its file moves; a crash in between leaves the file where it was, and the next sweep does both again.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import re
import stat
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from drirl_core.config import SourceConfig
from drirl_core.config.operations import ACCEPTED, REJECTED
from drirl_core.errors import ConfigError, DataError
from drirl_core.files.reading import is_zipped
from drirl_core.graph.layout import INBOX_SOURCE
from drirl_core.project import Project

LOCK_FILE = ".sweep.lock"
REASON_ENDING = ".reason.txt"
_UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", ".lock", "~")
_ID_DIGITS = 16
_LONGEST_NAME, _LONGEST_ENDING = 80, 16
_CHUNK = 1 << 20


class InboxBusy(DataError):
    """Say that another process is sweeping the folder at this moment."""


@dataclass(frozen=True)
class Accepted:
    """A file that was accepted.

    Args:
        name: as it was dropped, odd characters replaced.
        stored: where it is now.
        rows: unsafe prompts it holds.
        usable: those that can be used, as far as the file alone tells.
    """

    name: str
    stored: Path
    rows: int
    usable: int


@dataclass(frozen=True)
class Refused:
    """A file that was not accepted.

    Args:
        name: as it was dropped, odd characters replaced.
        stored: where it is now.
        reason: what was given, what is needed and how to fix it.
    """

    name: str
    stored: Path
    reason: str


@dataclass(frozen=True)
class Waiting:
    """A file that stays for the next sweep, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Swept:
    """What one sweep did, in the order of names."""

    accepted: Sequence[Accepted] = field(default_factory=list)
    rejected: Sequence[Refused] = field(default_factory=list)
    waiting: Sequence[Waiting] = field(default_factory=list)


def sweep(project: Project, *, now: float | None = None, seconds: float = math.inf, most_lost: float = 1.0) -> Swept:
    """Look at every file of the drop folder once, and accept or reject those that are completely written.

    Args:
        project: names the folder and says how its files are read.
        now: the time from which ages are computed; None for the present.
        seconds: time after which the rest is left for the next sweep.
        most_lost: share of a file's rows that may be unusable; a file above it is rejected, and one without a usable
            row whatever the share.

    Returns:
        What was accepted, rejected and left waiting.

    Raises:
        ConfigError: there is no drop folder, it holds what the run itself needs, or its adapter or columns are unknown.
        InboxBusy: another process is sweeping it.
        DataError: the folder cannot be used.
    """
    source = project.config.operations.inbox.source
    if source is None:
        raise ConfigError("there is no drop folder; name a directory in operations.inbox.folder")
    folder = Path(source.path).absolute().parent
    _require_own_folder(project, folder)
    try:
        for name in (ACCEPTED, REJECTED):
            (folder / name).mkdir(exist_ok=True)
        with FileLock(folder / LOCK_FILE, timeout=0):
            return _sweep(
                _Sweeper(project, source, folder, most_lost),
                time.time() if now is None else now,
                time.monotonic() + seconds,
            )
    except Timeout as error:
        raise InboxBusy(f"another process is sweeping {folder} at this moment; look again in a few seconds") from error
    except OSError as error:
        raise DataError(
            f"the drop folder {folder} cannot be used "
            f"({error.filename or folder}: {error.strerror or error}); fix its permissions"
        ) from error


def _require_own_folder(project: Project, folder: Path) -> None:
    """Raise `ConfigError` unless the folder exists and holds nothing that a sweep must not move away."""
    if not folder.is_dir():
        raise ConfigError(
            f"operations.inbox.folder is {folder}, which is no directory; make it (mkdir {folder}), or fix the setting"
        )
    config = project.config
    read = (path for name, path in project.graph.sources.items() if name != INBOX_SOURCE)
    for needed in (Path(config.root), Path(config.models.cache), *read):
        # A link in the folder would be moved, wherever it leads.
        places = (needed.absolute().resolve(), needed.absolute().parent.resolve() / needed.name)
        if any(place.is_relative_to(folder.resolve()) for place in places):
            raise ConfigError(
                f"operations.inbox.folder is {folder}, but a run needs {needed}, which is in it; "
                "give the drop folder a directory of its own"
            )


def _sweep(sweeper: _Sweeper, now: float, deadline: float) -> Swept:
    outcomes: list[Accepted | Refused | Waiting] = []
    for name in sorted(os.listdir(sweeper.folder)):
        if name in (ACCEPTED, REJECTED) or name.startswith((".", "~")) or name.lower().endswith(_UNFINISHED):
            continue
        if time.monotonic() > deadline:
            outcomes.append(Waiting(_clean(name), "there was no time left in this sweep"))
            continue
        try:
            outcomes.append(sweeper.take(name, now))
        except FileNotFoundError:  # its owner removed it
            continue
        except OSError as error:
            outcomes.append(
                Waiting(_clean(name), f"it cannot be moved ({error.strerror or error}); fix its permissions")
            )
    return Swept(*([o for o in outcomes if isinstance(o, kind)] for kind in (Accepted, Refused, Waiting)))


class _Sweeper:
    """Decide about one file after another.

    Args:
        project: the limits and the categories.
        source: how files are read.
        folder: the drop folder, with its two folders made.
        most_lost: share of a file's rows that may be unusable.
    """

    def __init__(self, project: Project, source: SourceConfig, folder: Path, most_lost: float) -> None:
        config = project.config
        self.folder, self._source, self._inbox = folder, source, config.operations.inbox
        self._max_chars, self._most_lost = config.prompts.max_chars, most_lost
        self._categories = project.graph.categories
        self._ledger = {name[:_ID_DIGITS]: name for name in sorted(os.listdir(folder / ACCEPTED), reverse=True)}

    def take(self, name: str, now: float) -> Accepted | Refused | Waiting:
        """Move one file to where it belongs, unless it is still being written.

        Raises:
            OSError: it is gone, or cannot be moved.
            ConfigError: the settings, not the file, are wrong.
        """
        file, shown = self.folder / name, _clean(name)
        seen = os.lstat(file)
        age = now - seen.st_ctime  # unlike the time of modification, nobody can set it
        if age < self._inbox.settle_s:
            return Waiting(shown, f"it is {max(age, 0.0):.1f} s old and may still be written to")
        identity = hashlib.sha256(f"{name} {_stamp(seen)}".encode("utf-8", "backslashreplace")).hexdigest()[:_ID_DIGITS]
        problem, rows, usable = "", 0, 0
        try:
            _require_plain(seen, self._inbox.max_bytes)
            identity = _hash_file(file)
            rows, usable = self._examine(file, identity)
        except ConfigError:  # it would reject every file
            raise
        except DataError as error:
            problem = str(error).replace(str(file), shown).removeprefix(f"{shown}: ")
        except OSError as error:
            problem = f"it cannot be read ({error.strerror or error}); fix its permissions and drop it again"
        except Exception as error:  # one file that breaks a reader must not block all others forever
            problem = f"reading it failed with {type(error).__name__}: {error}; save it again, as jsonl or csv in UTF-8"
        if _stamp(os.lstat(file)) != _stamp(seen):
            return Waiting(shown, "it changed while it was read")
        stored = f"{identity}-{shown}"
        if problem:
            return self._reject(file, stored, problem)
        os.rename(file, self.folder / ACCEPTED / stored)
        self._ledger[identity] = stored
        return Accepted(shown, self.folder / ACCEPTED / stored, rows, usable)

    def _examine(self, file: Path, identity: str) -> tuple[int, int]:
        """Read a file as the prompt pool will; return its rows and how many of them can be used.

        Raises:
            DataError: it was accepted already, cannot be read, or no row of it can be used.
        """
        from drirl_core.prompts.adapters import read_source
        from drirl_core.prompts.stage import check_row

        if identity in self._ledger:
            raise DataError(
                f"its content was accepted before, as {ACCEPTED}/{self._ledger[identity]}; there is nothing to do. "
                "To accept it again, remove that file first"
            )
        if is_zipped(file):
            _require_unpacked_below(file, self._inbox.max_bytes)
        found = read_source(self._source, file, self._categories)
        problems = [check_row(row, self._max_chars) for row in found.rows]
        usable = problems.count(None)
        few = len(problems) - usable > self._most_lost * len(problems)
        if not usable or few:
            counts = Counter(problem[0] for problem in problems if problem)
            listed = [f"{count} {reason}" for reason, count in counts.most_common()]
            listed += [f"{found.skipped} marked by the source as no unsafe prompt"] if found.skipped else []
            first = next(
                (
                    f"; row {row.row}: {problem[1]}"
                    for row, problem in zip(found.rows, problems, strict=True)
                    if problem
                ),
                "",
            )
            usable_rows = f"only {usable}" if usable else "none"
            need = f"At least {1 - self._most_lost:.0%} (checks.max_lost_fraction)" if usable else "At least one"
            raise DataError(
                f"{usable_rows} of its {len(problems) + found.skipped} rows can be used ({', '.join(listed)}){first}. "
                f"{need} must hold a prompt in words"
            )
        return len(found.rows), usable

    def _reject(self, file: Path, stored: str, reason: str) -> Refused:
        target = self.folder / REJECTED / stored
        text = (
            f"{_clean(file.name)} was not accepted:\n\n{reason}\n\n"
            "Fix it and drop it again; this copy is no longer needed.\n"
        )
        # The reason first: a crash in between leaves the file where it was, and both are done again.
        target.with_name(stored + REASON_ENDING).write_text(text, encoding="utf-8", errors="backslashreplace")
        os.rename(file, target)
        return Refused(_clean(file.name), target, reason)


def _require_plain(seen: os.stat_result, max_bytes: int) -> None:
    """Raise `DataError` for anything that is no file within the size limit; nothing of it was read."""
    if not stat.S_ISREG(seen.st_mode):
        kinds = {stat.S_IFLNK: "a symbolic link, which is not followed", stat.S_IFDIR: "a folder"}
        raise DataError(
            f"it is {kinds.get(stat.S_IFMT(seen.st_mode), 'no regular file')}; drop the files themselves, one by one"
        )
    if seen.st_size > max_bytes:
        raise DataError(
            f"it has {seen.st_size:,} bytes, at most {max_bytes:,} are read; "
            "split it, or raise operations.inbox.max_bytes"
        )


def _require_unpacked_below(file: Path, max_bytes: int) -> None:
    """Raise `DataError` when a gzip file unpacks to more than the limit, without holding it in memory."""
    total = 0
    with (
        gzip.open(file) as unpacked,
        contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error),
    ):  # the reader says what is wrong
        while total <= max_bytes and (chunk := unpacked.read(_CHUNK)):
            total += len(chunk)
    if total > max_bytes:
        raise DataError(f"it unpacks to more than {max_bytes:,} bytes; split it, or raise operations.inbox.max_bytes")


def _stamp(seen: os.stat_result) -> tuple[int, ...]:
    return (seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _hash_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:_ID_DIGITS]


def _clean(name: str) -> str:
    """Return a name with odd characters replaced and its ending kept, short enough to add an identity and an ending."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    ending = "".join(Path(kept).suffixes[-2:])[-_LONGEST_ENDING:]
    return kept if len(kept) <= _LONGEST_NAME else kept[: _LONGEST_NAME - len(ending)] + ending
