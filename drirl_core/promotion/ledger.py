"""The promoted policy, and the history of promotions and rollbacks: who, when, why.

Each move is a numbered entry that is written once (`drirl_core.store.journal`). The last entry is the pointer, so that
pointer and history can never disagree.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drirl_core.errors import ArtifactError
from drirl_core.promotion.candidate import CANDIDATE
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.journal import Journal, now

PROMOTIONS = "promotions"
"""Folder of the ledger below the root of the artifacts."""


class NotPromotedError(ArtifactError):
    """Say that a candidate may not be promoted; the pointer does not move."""


@dataclass(frozen=True)
class Promotion:
    """One move of the pointer.

    Args:
        action: `promote`, or `rollback` to a policy that was promoted earlier.
        candidate: version of the `promotion_candidate` whose policy it is.
        policy: version of the `policy_checkpoint`.
        at: time in UTC, ISO 8601.
        by: who moved it.
        why: the reason that was given.
        gates: the results of the gates, one row each with `gate`, `passed` and `description`; empty for a rollback.
        forced: whether failed gates were overruled.
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
        store: holds the candidates and policies.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self._journal = store, Journal(store, PROMOTIONS)

    def history(self) -> list[Promotion]:
        """Return every move of the pointer, the oldest first.

        Raises:
            ArtifactError: the ledger cannot be read; an unreadable ledger never counts as empty.
        """
        return self._journal.entries(lambda row: Promotion(**{**row, "gates": tuple(row["gates"])}))

    def current(self) -> Promotion | None:
        """Return the move that set the promoted policy, or None when no policy was promoted yet."""
        history = self.history()
        return history[-1] if history else None

    def promote(
        self,
        candidate: str,
        *,
        by: str,
        why: str,
        gates: Sequence[Mapping[str, Any]] = (),
        forced: bool = False,
        judged_after: Promotion | Literal["unknown"] | None = "unknown",
    ) -> Promotion:
        """Move the pointer to a candidate's policy.

        Args:
            candidate: version of a `promotion_candidate`.
            by: who does it.
            why: the reason.
            gates: the results of the gates.
            forced: whether failed gates, or a move since the gates were evaluated, are overruled.
            judged_after: the last move when the gates were evaluated, None when there was none.

        Returns:
            The new entry; when this candidate is already promoted, the entry that promoted it.

        Raises:
            NotPromotedError: a gate failed, or the pointer moved since the gates were evaluated, without `forced`.
            ArtifactError: the candidate or its policy is not in the store, or the ledger cannot be written.
        """
        failed = [f"{row['gate']}: {row['description']}" for row in gates if not row["passed"]]
        if failed and not forced:
            raise NotPromotedError(f"candidate {candidate} is not promoted; " + "; ".join(failed))
        policy = policy_of(self._store, candidate)

        def next_move(history: Sequence[Promotion]) -> Promotion:
            last = history[-1] if history else None
            if last and last.candidate == candidate:
                return last
            if judged_after not in ("unknown", last) and not forced:
                since = f"{last.by} moved to {last.policy} at {last.at}" if last else "the ledger was emptied"
                raise NotPromotedError(
                    f"candidate {candidate} is not promoted: its gates compared it with the policy promoted before "
                    f"{since}; evaluate them again"
                )
            return Promotion(
                "promote", candidate, policy, now(), by, why, tuple(dict(row) for row in gates), bool(failed)
            )

        return self._move(next_move)

    def rollback(self, *, by: str, why: str, to: str | None = None) -> Promotion:
        """Move the pointer back to a policy that was promoted earlier.

        Args:
            by: who does it.
            why: the reason.
            to: version (or its first digits) of the policy or candidate; None for the previous one.

        Returns:
            The new entry.

        Raises:
            ArtifactError: there is no earlier policy, `to` names none or several, or its files are missing.
        """

        def next_move(history: Sequence[Promotion]) -> Promotion:
            target = rollback_target(history, to)
            policy_of(self._store, target.candidate)
            return Promotion("rollback", target.candidate, target.policy, now(), by, why)

        return self._move(next_move)

    def _move(self, next_move: Callable[[Sequence[Promotion]], Promotion]) -> Promotion:
        """Append the move that follows from the history; when another process was first, read the history again."""
        while True:
            history = self.history()
            entry = next_move(history)
            if history and entry is history[-1]:
                return entry
            try:
                if self._journal.write(len(history) + 1, json.dumps(dataclasses.asdict(entry), indent=1)):
                    return entry
            except ArtifactError as error:
                raise ArtifactError(f"the promoted policy stays what it was: {error}") from error


def policy_of(store: ArtifactStore, candidate: str) -> str:
    """Return the version of a candidate's policy, after checking that both are complete.

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
    """Find the promotion that a rollback returns to.

    Args:
        history: every move, the oldest first.
        to: version, or its first digits, of a policy or candidate; None for the previous one.

    Raises:
        ArtifactError: there is none, or `to` names none or several.
    """
    if not history:
        raise ArtifactError(
            "no policy was promoted yet, so there is nothing to roll back; promote one with `drirl promote`"
        )
    present = history[-1]
    earlier = [entry for entry in history if entry.policy != present.policy]
    if not earlier:
        raise ArtifactError(
            f"{present.policy} is the only policy that was ever promoted, so there is nothing to roll back to"
        )
    if to is None:
        below = [entry for entry in _replay(history)[0] if entry.policy != present.policy]
        return (below or earlier)[-1]
    found = [entry for entry in earlier if entry.policy.startswith(to) or entry.candidate.startswith(to)]
    policies = {entry.policy for entry in found}
    if len(policies) != 1:
        known = ", ".join(dict.fromkeys(entry.policy for entry in earlier))
        raise ArtifactError(
            f"{to!r} names {len(policies) or 'none'} of the policies that were promoted before; choose one of {known}"
        )
    return found[-1]  # the most recent evidence


def left_by_rollback(history: Sequence[Promotion], policy: str) -> Promotion | None:
    """Find the rollback that left a policy, or skipped it, unless the pointer returned to that policy later.

    Such a policy is promoted again only by a person, never automatically.

    Args:
        history: every move, the oldest first.
        policy: version of a `policy_checkpoint`.

    Returns:
        The rollback; None when there is none.
    """
    return _replay(history)[1].get(policy)


def _replay(history: Sequence[Promotion]) -> tuple[list[Promotion], dict[str, Promotion]]:
    """Return the stack of promotions with the current one on top, and by policy the rollback that removed it.

    One policy may have several candidates, because its benchmarks may change; so policies are compared.
    """
    stack: list[Promotion] = []
    left: dict[str, Promotion] = {}
    for entry in history:
        if entry.action == "rollback":
            while stack and stack[-1].policy != entry.policy:
                left[stack.pop().policy] = entry
            stack = stack or [entry]
        else:
            stack.append(entry)
        left.pop(entry.policy, None)
    return stack, left
