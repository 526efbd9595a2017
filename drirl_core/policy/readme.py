"""The README inside a checkpoint's folder: what the weights are, from what and how they were made.

It is published with the weights, complete or not at all. How good the policy is cannot be in it, because the benchmarks
measure these very weights: that is in the asset `model_card`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from drirl_core.config import Config, resolved
from drirl_core.config.slices import slice_of
from drirl_core.config.strict_yaml import dump_yaml
from drirl_core.graph import build as stages
from drirl_core.graph.figures import key_figures
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.rounds import ROUND_POLICIES
from drirl_core.graph.stages import STAGES
from drirl_core.models.naming import base_model, card_matter, shown_reference
from drirl_core.redaction import redact
from drirl_core.store.tables import read_table

README = "README.md"
_SPLITS = ("train", "validation", "test")

METHODS = {
    "sft_checkpoint": (
        "after supervised fine-tuning",
        "Supervised fine-tuning on the demonstrations of every harm category and on good answers to harmless prompts. "
        "It is the start of the policy that DR-IRL aligns, and the baseline that it is compared with.",
    ),
    "policy_checkpoint": (
        "aligned with DR-IRL",
        "Inverse reinforcement learning with dynamic reward scaling (arXiv:2503.18991): one reward model per harm "
        "category is learned from demonstrations, without preference pairs; GRPO then trains the policy, and the "
        "advantages of a prompt are multiplied by a coefficient that grows with how hard the prompt is and how "
        "responsive the policy still is to its category.",
    ),
    "dpo_checkpoint": (
        "after direct preference optimisation",
        "A baseline of DR-IRL: direct preference optimisation from the SFT start, on pairs of a demonstration and a "
        "sampled completion that answered an unsafe prompt or refused a harmless one.",
    ),
    "dpo_s_checkpoint": (
        "after direct preference optimisation scaled by hardness",
        "A baseline of DR-IRL: direct preference optimisation from the SFT start, as the baseline dpo, on pairs that "
        "are drawn in proportion to the hardness coefficient of their prompt.",
    ),
    "irft_checkpoint": (
        "after implicit-reward fine-tuning",
        "A baseline of DR-IRL: implicit-reward fine-tuning (IRFT, arXiv:2405.17888) from the SFT start. In each round "
        "the policy completes training prompts and learns to prefer the demonstrations to its own completions, with "
        "the policy of the round's beginning as the reference.",
    ),
    "grpo_checkpoint": (
        "aligned without reward scaling",
        "A baseline of DR-IRL: GRPO with the same reward model per harm category, learned by inverse reinforcement "
        "learning, where every prompt counts the same.",
    ),
    "joint_checkpoint": (
        "aligned with one reward model for all categories",
        "A baseline of DR-IRL: GRPO with a single reward model, learned by inverse reinforcement learning from the "
        "demonstrations of all harm categories and of harmless prompts, where every prompt counts the same.",
    ),
    "staged_competence_checkpoint": (
        "aligned in stages of growing hardness",
        "A baseline of DR-IRL: GRPO with the same reward model per harm category, learned by inverse reinforcement "
        "learning, where hardness decides the order of the prompts instead of their weight, and the reference is "
        "renewed at every stage.",
    ),
    "rloo_checkpoint": (
        "aligned by RLOO without reward scaling",
        "A baseline of DR-IRL: REINFORCE with a leave-one-out baseline (RLOO) with the same reward model per harm "
        "category, learned by inverse reinforcement learning, where every prompt counts the same.",
    ),
    "rloo_s_checkpoint": (
        "aligned by RLOO with dynamic reward scaling",
        "A baseline of DR-IRL: REINFORCE with a leave-one-out baseline (RLOO) with the same reward models, whose "
        "advantages are multiplied by the coefficient that DR-IRL uses.",
    ),
    "verifiable_checkpoint": (
        "aligned with a verifiable reward",
        "A control for DR-IRL: GRPO whose reward is 1 for a reply of the right kind by the rules judge (a refusal of "
        "an unsafe prompt, an answer to a harmless one), else -1. No reward is learned.",
    ),
    "propositions_checkpoint": (
        "aligned with a reward over propositions",
        "A control for DR-IRL: GRPO whose reward is linear in readable propositions of a reply (it declines, names "
        "what is wrong, answers on topic), with weights learned by the same inverse reinforcement learning.",
    ),
    **{
        name: (
            f"after round {number}",
            f"What the rewards of round {number} of DR-IRL lead to: GRPO with one reward model per harm category, "
            "learned by inverse reinforcement learning on the completions of all rounds before, where every prompt "
            "counts the same. The next rewards are learned on its completions as well. It is the last step of its "
            "training, not a checkpoint chosen for its quality, and no policy to use.",
        )
        for number, name in enumerate(ROUND_POLICIES, 1)
    },
}
"""Title and method of each stage that writes weights."""


def write_readme(context: stages.Context, stage: str, metrics: Mapping[str, Any]) -> None:
    """Write `README.md` beside the weights.

    Args:
        context: its inputs are the data sets and whatever else the weights were made from.
        stage: key into `METHODS`.
        metrics: numbers at the end of training.
    """
    (context.out / README).write_text("\n".join(_lines(context, stage, metrics)) + "\n", encoding="utf-8")


def _lines(context: stages.Context, stage: str, metrics: Mapping[str, Any]) -> Iterator[str]:
    reference = context.config.models.policy
    title, method = METHODS[stage]
    matter = card_matter(reference) | {"tags": ["alignment", "safety", "dr-irl"]}
    yield f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).rstrip()}\n---"
    yield f"\n# {_cell(context.config.name)}: {base_model(reference)[0].rpartition('/')[2]} {title}\n"
    yield method
    yield "\n## Data\n"
    yield "| data set | rows | train | validation | test | sources (licence) |"
    yield "|---|---:|---:|---:|---:|---|"
    datasets = {dataset_name(category): path for category, path in context.datasets().items()}
    for row in data_rows(datasets):
        yield f"| {' | '.join(map(_cell, row))} |"
    yield "\nOnly the training split is trained on."
    yield "\n## Training\n"
    yield f"```yaml\n{settings_text(context.config, stage)}\n```\n"
    yield from _table(("at the end of training", "value"), dict(key_figures(metrics)))
    yield "\n## Made from\n"
    yield from _table(("asset", "version"), {name: path.name for name, path in sorted(context.inputs.items())})
    yield "\n`manifest.json` in this folder has the same lineage, the complete configuration and a hash of every file."
    yield "\n## How good it is\n"
    yield (
        "Not in this file: benchmarks are measured on finished weights, and the folder does not change after it was "
        "published. `drirl report` shows the results; the artifact `model_card` of the same run is a card with them."
    )
    yield "\n## Intended use\n"
    yield (
        "Research on safety alignment, and a starting point for aligning your own model. Not a safety product: build "
        "no application on it without further safeguards."
    )
    yield "\n## How to load it\n"
    yield _EXAMPLE


def data_rows(datasets: Mapping[str, Path]) -> list[tuple[Any, ...]]:
    """Count the rows of data sets.

    Args:
        datasets: their directories by name.

    Returns:
        One row per data set, by name: name, number of rows, that of each split, and the sources with their licences.
    """
    found: list[tuple[Any, ...]] = []
    for name, path in sorted(datasets.items()):
        rows = read_table(path / "rows.parquet", ("split", "source", "licence"))
        splits = Counter(row["split"] for row in rows)
        sources = Counter(f"{row['source']} ({row['licence']})" for row in rows)
        found.append((name, len(rows), *(splits[split] for split in _SPLITS), ", ".join(sorted(sources))))
    return found


def settings_text(config: Config, stage: str) -> str:
    """Return the settings that decide the weights, as YAML; a local directory by its name.

    Args:
        config: the configuration.
        stage: key into `METHODS`.
    """
    record = STAGES[stage]
    sections = slice_of(resolved(config), record.config, record.unread, placeless=False)
    shown = {
        name: shown_reference(value) if name in ("models.policy", "models.encoder") else value
        for name, value in sections.items()
    }
    return dump_yaml(redact(shown), width=110).rstrip()


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {_cell(name)} | {_cell(value)} |"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


_EXAMPLE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "How do I stay calm before an exam?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```"""
