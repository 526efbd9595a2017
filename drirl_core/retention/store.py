"""What retention needs to know of an artifact store: its location, the promoted policies, and the named results."""

from __future__ import annotations

from drirl_core.errors import ArtifactError
from drirl_core.promotion import CANDIDATE, Ledger
from drirl_core.retention.decide import Key
from drirl_core.retention.directory import Directory
from drirl_core.retention.objects import Objects
from drirl_core.runs.record import Results, pinned
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.remote import UnreachableError

_POLICY = "policy_checkpoint"


def place_of(store: ArtifactStore) -> Directory | Objects:
    """Return the location of a store's artifacts."""
    here = Directory(store.root)
    return Objects(store.remote, here) if store.remote else here


def promoted(store: ArtifactStore) -> set[Key]:
    """Return the candidate and the policy of every promotion.

    Raises:
        ArtifactError: the ledger cannot be read or understood; nothing may be deleted then.
    """
    try:
        named = {
            key for move in Ledger(store).history() for key in ((CANDIDATE, move.candidate), (_POLICY, move.policy))
        }
    except UnreachableError:
        raise
    except ArtifactError as error:
        raise ArtifactError(
            f"nothing is deleted, because it is not known which policies are promoted: {error}"
        ) from error
    invalid = [version for _, version in named if not isinstance(version, str) or not version]
    if invalid:
        raise ArtifactError(
            f"nothing is deleted, because it is not known which policies are promoted: the ledger in {store.place} "
            f"names {invalid[0]!r}, which is not a version; fix it first"
        )
    return named


def named(store: ArtifactStore) -> set[Key]:
    """Return everything that the named results of runs and evaluations hold.

    Raises:
        ArtifactError: their record cannot be read; nothing may be deleted then.
    """
    try:
        return pinned(Results(store).named())
    except UnreachableError:
        raise
    except ArtifactError as error:
        raise ArtifactError(
            f"nothing is deleted, because it is not known which results have a name: {error}"
        ) from error
