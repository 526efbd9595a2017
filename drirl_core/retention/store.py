"""What retention asks of an artifact store: where it lies, and which policies were ever promoted."""

from __future__ import annotations

from drirl_core.errors import ArtifactError
from drirl_core.promotion import CANDIDATE, Ledger
from drirl_core.retention.decide import Key
from drirl_core.retention.directory import Directory
from drirl_core.retention.objects import Objects
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.remote import UnreachableError

_POLICY = "policy_checkpoint"


def place_of(store: ArtifactStore) -> Directory | Objects:
    """Return the place where a store's artifacts lie."""
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
    strange = [version for _, version in named if not isinstance(version, str) or not version]
    if strange:
        raise ArtifactError(
            f"nothing is deleted, because it is not known which policies are promoted: the ledger in {store.place} names "
            f"{strange[0]!r}, which is no version; mend it first"
        )
    return named
