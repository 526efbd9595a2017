"""The model card of an export: `README.md` with the measured figures as metadata that model hubs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.benchmarks.render import render
from drirl_core.export.licences import LICENCE, Licence
from drirl_core.export.material import Material
from drirl_core.graph.figures import key_figures
from drirl_core.graph.policies import CHECKPOINTS
from drirl_core.models.naming import base_model
from drirl_core.policy.readme import METHODS, settings_text
from drirl_core.redaction import redact_text
from drirl_core.report.card import front_matter
from drirl_core.report.data_sections import limits
from drirl_core.report.headline import verdict


def card(
    material: Material,
    licence: Licence,
    files: Sequence[tuple[str, str]],
    no_adapter: str | None,
    reason: str = "",
) -> str:
    """Fill the card.

    Args:
        material: the policy and what it was made from.
        licence: of the weights.
        files: name and meaning of each file of the folder.
        no_adapter: why the folder holds no adapter; None if it does.
        reason: why the policy is published although gates fail; empty where nobody overruled them.

    Returns:
        Markdown with YAML front matter, the same for equal arguments.
    """
    from jinja2 import Environment, StrictUndefined

    # Markdown, not HTML: escaping would show as `&#39;`. Tables escape their own bars, front matter is dumped as YAML.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    environment.filters["cell"] = _cell
    template = environment.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"))
    config, stage = material.config, CHECKPOINTS[material.policy]
    base, (title, method) = base_model(config.models.policy)[0], METHODS[stage]
    return template.render(
        front_matter=yaml.safe_dump(
            matter(material, licence, files), sort_keys=False, allow_unicode=True, width=120
        ).rstrip(),
        title=f"{_cell(config.name)}: {base.rpartition('/')[2]} {title}",
        verdict=verdict(material.results[0]) if material.policy == ALIGNED else None,
        method=method,
        reason=_cell(redact_text(reason)),
        suites=[render(found).rstrip() for found in material.results],
        max_new_tokens=config.benchmarks.max_new_tokens,
        gates=_gates(material),
        data=material.data,
        settings=settings_text(config, stage),
        metrics=dict(key_figures(material.metrics)),
        files=files,
        no_adapter=no_adapter,
        quantised_base=config.models.policy.endswith(".gguf"),
        base=base,
        gguf=[name for name, _ in files if name.endswith(".gguf")],
        limits=limits(config, material.results),
        versions=material.versions,
    )


def matter(material: Material, licence: Licence, files: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the front matter: base model, licence, tags, and the measured rates as `model-index`.

    Args:
        material: the policy.
        licence: of the weights.
        files: name and meaning of each file of the folder.
    """
    found = front_matter(material.config, material.results, material.policy)
    if licence.name == "other":
        found["license_link"] = LICENCE
    if any(name.endswith(".gguf") for name, _ in files):
        found["tags"] = [*found["tags"], "gguf"]
    return found


def _gates(material: Material) -> list[dict[str, Any]]:
    """Return the gates; those upstream are counted, and shown where they fail."""
    rows = [gate.row() for gate in material.gates]
    own = [gate.asset == material.gates[0].asset for gate in material.gates]
    return [{**row, "shown": first or not row["passed"]} for row, first in zip(rows, own, strict=True)]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
