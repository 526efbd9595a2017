"""From an asset to the source of the function that makes it, found without importing a module that may load torch."""

import functools
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import dagster as dg

from drirl_core.config import Config

CODE_REFERENCES = "dagster/code_references"
"""Key of the metadata that Dagster shows as the link to an asset's code."""


def code_references(function: str, config: Config) -> dict[str, Any]:
    """Return the metadata that links an asset to a function.

    Args:
        function: `module:name`, the name at the top level of the module.
        config: `operations.source_url` decides whether the link leads to this machine's file or to a web page.

    Returns:
        One entry, or none when the module has no source file here.
    """
    found = _find(function)
    if found is None:
        return {}
    root, file, line = found
    url = config.operations.source_url
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        if url:
            address = f"{url.rstrip('/')}/{file.relative_to(root).as_posix()}" + (f"#L{line}" if line else "")
            reference: Any = dg.UrlCodeReference(url=address, label=function)
        else:
            reference = dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=function)
        return {CODE_REFERENCES: dg.CodeReferencesMetadataValue(code_references=[reference])}


@functools.cache
def _find(function: str) -> tuple[Path, Path, int | None] | None:
    """Return the directory that holds the top package, the file of a function, and its line if it has one.

    The text is searched: to parse fifteen files would cost more than all else that loading the code location does.
    """
    module, name = function.split(":")
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)  # of the top package alone: to look for a submodule imports its parents
    if spec is None or spec.origin is None:
        return None
    top = Path(spec.origin)
    root = top.parents[1] if spec.submodule_search_locations else top.parent
    base = root.joinpath(package, *rest)
    file = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    match = re.search(rf"^(?:async +)?def +{re.escape(name)}\b", text, re.MULTILINE)
    return root, file, text.count("\n", 0, match.start()) + 1 if match else None
