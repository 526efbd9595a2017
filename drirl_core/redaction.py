"""Remove secrets from output: reports, model cards, printed settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY_SECRET = re.compile(r"(?i)([?&](?:[a-z_-]*key|[a-z_-]*token|password|passwd|secret|sig(?:nature)?)=)[^&#\s]+")
_BEARER = re.compile(r"\b(?:sk-|hf_|ghp_|gho_|github_pat_|xox[bap]-|AKIA)[A-Za-z0-9_-]{8,}")
_SECRET_KEY = re.compile(
    r"(?i)(?:^|_)(?:api_?key|key|token|password|passwd|secret|credential|credentials|authorization)$"
)


def redact(value: Any) -> Any:
    """Return plain data without secrets.

    Args:
        value: JSON data such as a resolved configuration.

    Returns:
        The same data; texts under keys such as `api_key` or `token`, user names and passwords in URLs, secrets in query
        strings and texts that look like known tokens are replaced by `(hidden)`. The *name* of an environment variable
        (`api_key_env`) stays: it is not a secret.
    """
    if isinstance(value, Mapping):
        return {key: HIDDEN if _secret(str(key), item) else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """Replace what looks like a secret in a text."""
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _QUERY_SECRET.sub(rf"\1{HIDDEN}", text)
    return _BEARER.sub(HIDDEN, text)


def _secret(key: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and bool(_SECRET_KEY.search(key))
