"""Which policy is promoted, and every promotion and rollback before: who, when, why.

One JSON file, replaced as a whole, so that the pointer and its history can never disagree.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from filelock import FileLock

from drirl_core.artifacts import ArtifactStore
from drirl_core.errors import ArtifactError
from drirl_core.promotion.candidate import CANDIDATE

LEDGER = "promotions.json"
_LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Promotion:
    """One move of the pointer.

    Args:
        action: `promote`, or `rollback` to a policy that was promoted before.
        candidate: version of the `promotion_candidate` whose policy it is.
        policy: version of the `policy_checkpoint`.
        at: time in UTC, ISO 8601.
        by: who moved it.
        why: the reason that was given.
        gates: what the gates said, one row each with `gate`, `passed` and `description`; empty for a rollback.
        forced: whether gates that failed were overruled.
    """

    action: Literal["promote", "rollback"]
    candidate: str
    policy: str
    at: str
    by: str
    why: str
    gates: Sequence[Mapping[str, Any]] = ()
    forced: bool = False


class Ledger:
    """The promotions of one artifact store.

    Args:
        store: where the candidates and policies are.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.place = f"{store.place}/{LEDGER}"

    def history(self) -> list[Promotion]:
        """Return every move of the pointer, the oldest first.

        Raises:
            ArtifactError: the ledger cannot be read; it is never taken for an empty one.
        """
        try:
            text = self._store.read_state(LEDGER)
            rows = json.loads(text)["history"] if text is not None else []
            return [Promotion(**{**row, "gates": tuple(row["gates"])}) for row in rows]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(
                f"{self.place} cannot be read ({error}); restore it from a backup, or move it away to start without a promoted policy"
            ) from error

    def current(self) -> Promotion | None:
        """Return the move that made the promoted policy, or None when none was promoted yet."""
        history = self.history()
        return history[-1] if history else None

    def promote(self, candidate: str, *, by: str, why: str, gates: Sequence[Mapping[str, Any]] = (), forced: bool = False) -> Promotion:
        """Move the pointer to a candidate's policy.

        Args:
            candidate: version of a `promotion_candidate`.
            by: who does it.
            why: the reason.
            gates: what the gates said.
            forced: whether gates that failed are overruled.

        Returns:
            The new entry; when this candidate is promoted already, the entry that did it.

        Raises:
            ArtifactError: a gate failed and nobody overruled it, or the candidate or its policy is not in the store.
        """
        failed = [f"{row['gate']}: {row['description']}" for row in gates if not row["passed"]]
        if failed and not forced:
            raise ArtifactError(f"candidate {candidate} is not promoted; " + "; ".join(failed))
        policy = policy_of(self._store, candidate)
        with self._alone():
            history = self.history()
            if history and history[-1].candidate == candidate:
                return history[-1]
            entry = Promotion("promote", candidate, policy, _now(), by, why, tuple(dict(row) for row in gates), bool(failed))
            self._write([*history, entry])
        return entry

    def rollback(self, *, by: str, why: str, to: str | None = None) -> Promotion:
        """Move the pointer back to a policy that was promoted before.

        Args:
            by: who does it.
            why: the reason.
            to: version (or its beginning) of the policy or candidate; None for the one promoted before the present one.

        Returns:
            The new entry.

        Raises:
            ArtifactError: there is nothing to go back to, `to` names none or several, or its files are gone.
        """
        with self._alone():
            history = self.history()
            target = rollback_target(history, to)
            policy_of(self._store, target.candidate)
            entry = Promotion("rollback", target.candidate, target.policy, _now(), by, why)
            self._write([*history, entry])
        return entry

    def _write(self, history: Sequence[Promotion]) -> None:
        text = json.dumps({"history": [dataclasses.asdict(entry) for entry in history]}, indent=1)
        try:
            self._store.write_state(LEDGER, text)
        except ArtifactError as error:
            raise ArtifactError(f"the promoted policy stays what it was: {error}") from error

    def _alone(self) -> FileLock:
        """Hold the ledger among the processes of this machine; on an object store, machines must not promote at the same moment."""
        self._store.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self._store.root / f".{LEDGER}.lock", timeout=_LOCK_TIMEOUT_S)


def policy_of(store: ArtifactStore, candidate: str) -> str:
    """Return the version of a candidate's policy, both of them whole.

    Args:
        store: the store.
        candidate: version of a `promotion_candidate`.

    Raises:
        ArtifactError: the candidate or its policy is missing or damaged.
    """
    folder = store.open(CANDIDATE, candidate).path
    policy = json.loads((folder / "candidate.json").read_text(encoding="utf-8"))["policy"]
    return store.open("policy_checkpoint", policy).version


def rollback_target(history: Sequence[Promotion], to: str | None) -> Promotion:
    """Find the promotion that a rollback goes back to.

    Args:
        history: every move, the oldest first.
        to: version, or its beginning, of a policy or candidate; None for the one below the present one.

    Raises:
        ArtifactError: there is none, or `to` names none or several.
    """
    if not history:
        raise ArtifactError("no policy was promoted yet, so there is nothing to roll back; promote one with `drirl promote`")
    present = history[-1]
    earlier = {entry.candidate: entry for entry in history if entry.candidate != present.candidate}
    if not earlier:
        raise ArtifactError(f"{present.policy} is the only policy that was ever promoted, so there is nothing to roll back to")
    if to is None:
        return list(_as_left(history))[-1]
    found = [entry for entry in earlier.values() if entry.policy.startswith(to) or entry.candidate.startswith(to)]
    if len(found) != 1:
        known = ", ".join(entry.policy for entry in earlier.values())
        raise ArtifactError(f"{to!r} names {len(found) or 'none'} of the policies that were promoted before; choose one of {known}")
    return found[0]


def _as_left(history: Sequence[Promotion]) -> list[Promotion]:
    """Return what lies under the present policy: a rollback takes its target and all above it off the pile."""
    pile: list[Promotion] = []
    for entry in history:
        if entry.action == "rollback":
            while pile and pile[-1].candidate != entry.candidate:
                pile.pop()
            pile = pile or [entry]
        else:
            pile.append(entry)
    below = [entry for entry in pile[:-1] if entry.candidate != history[-1].candidate]
    return below or [entry for entry in history if entry.candidate != history[-1].candidate][-1:]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
