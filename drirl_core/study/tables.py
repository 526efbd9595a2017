"""The files of a study: its page, and each table as parquet, CSV and LaTeX."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.errors import ArtifactError
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.study.file import Study
from drirl_core.study.outcomes import Outcomes
from drirl_core.study.page import study_page
from drirl_core.study.verdicts import answers, costs, judges, methods, rates

PAGE = "study.html"
_KINDS = ("parquet", "csv", "tex")


def tables_of(study: Study, found: Outcomes, store: ArtifactStore) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table of a study.

    Args:
        study: the study.
        found: its measurements.
        store: knows what each artifact took.

    Returns:
        `methods`, `answers`, `judges`, `rates` and `costs`; see `drirl_core.study.verdicts`.
    """
    return {
        "methods": methods(found),
        "answers": answers(study, found),
        "judges": judges(found),
        "rates": rates(found),
        "costs": costs(study, found, store),
    }


def write_study(folder: Path, study: Study, found: Outcomes, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Write the page and the tables to a folder, all of them or none.

    Args:
        folder: replaced if it is there.
        study: the study.
        found: its measurements.
        tables: from `tables_of`.

    Returns:
        The path of the page.

    Raises:
        ArtifactError: the folder cannot be written, or holds something else.
    """
    _require_own(folder, tables)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            (made / PAGE).write_text(study_page(study, found, tables), encoding="utf-8")
            for name, rows in tables.items():
                _write(made / name, rows)
            made.chmod(0o755)  # a temporary folder is private
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error
    return folder / PAGE


def _require_own(folder: Path, tables: Mapping[str, Any]) -> None:
    """Refuse to replace what no study wrote."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; name a folder with --out")
    own = {PAGE, *(f"{name}.{kind}" for name in tables for kind in _KINDS)}
    others = sorted({file.name for file in folder.iterdir()} - own) if folder.exists() else []
    if others:
        raise ArtifactError(
            f"{folder} also holds {others[0]}, which would be lost; move it, or name another folder with --out"
        )


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    table = pd.DataFrame([dict(row) for row in rows])
    table.to_parquet(path.with_suffix(".parquet"), index=False)
    flat = table.map(lambda value: " ".join(map(str, value)) if isinstance(value, list) else value)
    flat.to_csv(path.with_suffix(".csv"), index=False)
    path.with_suffix(".tex").write_text(
        flat.style.format(escape="latex", precision=3, na_rep="")
        .format_index(escape="latex", axis="columns")
        .hide(axis="index")
        .to_latex(hrules=True),
        encoding="utf-8",
    )
