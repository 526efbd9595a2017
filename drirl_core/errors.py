"""Errors that tell a user what was given, what is needed and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DrirlError(Exception):
    """Base of all errors this project raises on purpose; the command line prints them without a traceback."""


class ConfigError(DrirlError, ValueError):
    """Say that a configuration file or setting cannot be used."""


class DataError(DrirlError, ValueError):
    """Say that an input file or table cannot be used."""


class ModelError(DrirlError, RuntimeError):
    """Say that a model reference cannot be resolved or loaded."""


class ArtifactError(DrirlError, RuntimeError):
    """Say that an artifact is missing, damaged, foreign or in use."""


class TrainingError(DrirlError, RuntimeError):
    """Say that training or sampling produced numbers that must not be used (NaN, constant reward)."""


class CheckError(DrirlError, RuntimeError):
    """Say that an artifact breaks a check, so that nothing may be built on it."""


def nearest(given: str, known: Iterable[str]) -> str:
    """Describe the known names, nearest match first.

    Args:
        given: the name the user wrote.
        known: the names that exist.

    Returns:
        A clause such as ``did you mean 'steps'? Known: seed, steps``.
    """
    names = sorted(known)
    match = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {match[0]!r}? " if match else ""
    return f"{hint}Known: {', '.join(names)}"
