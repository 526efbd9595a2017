"""Publish an exported folder as a model repository on the Hugging Face hub.

One commit carries everything, so that nobody sees half of it. The token is found by the hub's own client (the variable
HF_TOKEN, or `hf auth login`); nothing here reads, keeps or shows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from drirl_core.checks.gates import Gate
from drirl_core.errors import ArtifactError, ConfigError, DrirlError
from drirl_core.export.folder import RECORD
from drirl_core.export.licences import Licence
from drirl_core.redaction import redact_text

_ATTRIBUTES = ".gitattributes"
"""File that the hub itself puts into a repository."""


class HubError(DrirlError, RuntimeError):
    """Say that the hub refused something, or could not be reached."""


def require_publishable(repository: str, public: bool, licence: Licence, gates: Sequence[Gate], reason: str) -> None:
    """Check what can be checked without the hub, before anything is written.

    Args:
        repository: `owner/name`.
        public: whether everyone may read it.
        licence: of the weights.
        gates: of the promotion.
        reason: why it is published although gates fail; empty where nobody overrules them.

    Raises:
        ConfigError: the name cannot be one or the licence forbids it, or the licence of something public is not known.
        ArtifactError: a gate fails, and no reason is given.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"{repository!r} is no name of a repository ({error}); write OWNER/NAME") from error
    owner, slash, name = repository.partition("/")
    if not slash:
        raise ConfigError(f"{repository!r} names no owner; write OWNER/{owner}; OWNER is your account or organisation")
    if licence.name == "llama3.1" and not name.startswith("Llama"):
        raise ConfigError(
            f"the licence of Llama 3.1 wants names of derived models to begin with Llama; publish it as "
            f"{owner}/Llama-{name}"
        )
    if public and not licence.texts:
        raise ConfigError(
            "the licence of the base model was not found, and a public repository needs its text; give it with "
            "--licence FILE, or publish with --private"
        )
    failed = [gate.row() for gate in gates if not gate.verdict.passed]
    if failed and not reason.strip():
        said = "; ".join(f"{row['gate']}: {row['description']}" for row in failed)
        raise ArtifactError(
            f"{len(failed)} of {len(gates)} gates fail for this policy, so it is not published: {said}. Overrule them "
            "with --force --why TEXT; the card will say so"
        )


class Hub:
    """The hub, as one user sees it.

    Args:
        endpoint: its address; None for that of the hub's client (the variable HF_ENDPOINT, else huggingface.co).
    """

    def __init__(self, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(endpoint=endpoint, library_name="drirl")

    def require_login(self) -> str:
        """Return the name of the user that the token belongs to.

        Raises:
            ConfigError: there is no token.
            HubError: the hub does not accept it, or cannot be reached.
        """
        from huggingface_hub import get_token

        if get_token() is None:
            raise ConfigError(
                "there is no token for the hub; run `hf auth login`, or set HF_TOKEN to one that may write"
            )
        with _explained("the token was not accepted"):
            return str(self._api.whoami()["name"])

    def require_own_place(self, repository: str, private: bool) -> set[str] | None:
        """Refuse a repository that this project did not fill, or that more people can read than are meant to.

        Args:
            repository: `owner/name`.
            private: whether nobody else may read it.

        Returns:
            Names of its files; None where there is no such repository.

        Raises:
            ArtifactError: it holds something else, or it is public although it should be private.
            HubError: the hub cannot be reached.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            with _explained(f"{repository} cannot be looked at"):
                found = self._api.model_info(repository)
        except HubError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):
                return None
            raise
        files = {file.rfilename for file in found.siblings or ()} - {_ATTRIBUTES}
        if files and RECORD not in files:
            raise ArtifactError(
                f"{repository} is there and holds something else ({', '.join(sorted(files)[:3])}); name another "
                "repository"
            )
        if private and not found.private:
            raise ArtifactError(
                f"{repository} is there and public, so everybody could read the policy; make it private on the hub, "
                "give --public, or name another repository"
            )
        return files

    def upload(self, folder: Path, repository: str, private: bool, message: str) -> str:
        """Make the repository if there is none, and replace its content by a folder, in one commit.

        Args:
            folder: an export.
            repository: `owner/name`.
            private: whether nobody else may read it; an existing repository keeps its visibility.
            message: of the commit.

        Returns:
            Address of the repository.

        Raises:
            HubError: the hub refused it; whatever was there is unchanged.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        new = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
        former = self.require_own_place(repository, private)
        with _explained(f"{repository} was not published"):
            if former is None:
                self._api.create_repo(repository, private=private)
            operations = [
                *(CommitOperationDelete(name) for name in sorted((former or set()) - new.keys())),
                *(CommitOperationAdd(name, str(file)) for name, file in new.items()),
            ]
            self._api.create_commit(repository, operations, commit_message=message)
        return f"{self._api.endpoint}/{repository}"


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line, without secrets."""
    try:
        yield
    except Exception as error:  # the hub's client raises many kinds of errors, which mean the same to the user
        lines = [line.strip() for line in redact_text(str(error)).splitlines() if line.strip()]
        said = " ".join(lines) or "no reason given"
        raise HubError(
            f"{what} ({type(error).__name__}: {said[:500]}); check the name, your network, and that the token may "
            "write there"
        ) from error
