"""The asset `model_card`: a README.md for the aligned policy, with front matter that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.benchmarks.render import render
from drirl_core.config import Config
from drirl_core.errors import ArtifactError
from drirl_core.graph.build import Context
from drirl_core.models.naming import base_model, card_matter, shown_reference
from drirl_core.report.data_sections import grpo_line, limits
from drirl_core.report.headline import group_rate, verdict
from drirl_core.report.reading import read_json
from drirl_core.report.stage import read_results

_METRICS = (
    ("unsafe", "rates", "refusal of unsafe prompts"),
    ("safe_look_alike", "rates", "refusal of safe look-alikes"),
    ("helpful", "helpful", "correct helpful replies"),
)
_METHOD_TAGS = {ALIGNED: ("inverse-reinforcement-learning", "grpo")}


def build_model_card(context: Context) -> dict[str, Any]:
    """Write `README.md`, the model card of the aligned policy.

    Args:
        context: inputs `policy_checkpoint` and `benchmark_<suite>`.

    Returns:
        The headline and the size of the card.

    Raises:
        ArtifactError: the policy's metrics or a suite's results are missing.
    """
    if "policy_checkpoint" not in context.inputs:
        raise ArtifactError(
            f"the model card needs policy_checkpoint among its inputs, which are {sorted(context.inputs)}; "
            "materialize it first"
        )
    config, results = context.config, read_results(context)
    metrics = read_json(context.inputs["policy_checkpoint"], "metrics.json", "policy_checkpoint")
    text = render_card(config, results, metrics)
    (context.out / "README.md").write_text(text, encoding="utf-8")
    return {"headline": verdict(results[0]).sentence, "characters": len(text)}


def render_card(config: Config, results: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    """Fill the card.

    Args:
        config: configuration of the run.
        results: content of each suite's `results.json`.
        metrics: content of the policy's `metrics.json`.

    Returns:
        Markdown with YAML front matter, the same for equal arguments.
    """
    from jinja2 import Environment, StrictUndefined

    base, _ = base_model(config.models.policy)
    # Markdown, not HTML: escaping would show as `&#39;`. Tables escape their own bars, and front matter is dumped as
    # YAML.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    template = environment.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"))
    return template.render(
        front_matter=yaml.safe_dump(
            front_matter(config, results), sort_keys=False, allow_unicode=True, width=120
        ).rstrip(),
        name=config.name,
        base_name=base.rsplit("/", 1)[-1],
        verdict=verdict(results[0]),
        suites=[render(found).rstrip() for found in results],
        training=_training_rows(config, metrics),
        limits=limits(config, results),
        config=config,
    )


def front_matter(config: Config, results: Sequence[Mapping[str, Any]], policy: str = ALIGNED) -> dict[str, Any]:
    """Return the card's metadata in the form model hubs read.

    Args:
        config: names the base model.
        results: content of each suite's `results.json`.
        policy: name in the results of the policy that the card describes.
    """
    return card_matter(config.models.policy) | {
        "tags": ["alignment", "safety", *_METHOD_TAGS.get(policy, (policy,)), "dr-irl"],
        "model-index": [
            {"name": config.name, "results": [entry for found in results for entry in _index_entries(found, policy)]}
        ],
    }


def _index_entries(results: Mapping[str, Any], policy: str) -> list[dict[str, Any]]:
    suite = results["suite"]
    entries = []
    for group, table, name in _METRICS:
        rate = group_rate(results, policy, group, table)
        if rate is None or rate["rate"] is None:
            continue
        metric = {
            "type": "rate",
            "name": f"{name} (95 % interval {rate['low']:.3f} to {rate['high']:.3f}, n {rate['n']})",
            "value": rate["rate"],
        }
        dataset = {
            "type": suite["name"],
            "name": f"{suite['name']} version {suite['version']}",
            "args": {"group": group},
        }
        entries.append({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]})
    return entries


def _training_rows(config: Config, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    policy, hardness, data = config.policy, config.hardness, config.demonstrations
    sources = [*config.prompt_sources, data.helpful, data.refusals]
    if data.demonstrator.kind == "file":
        sources.append(data.demonstrator.source)
    rows = [
        ("base model", f"`{shown_reference(config.models.policy)}`"),
        (
            "start",
            "supervised fine-tuning on demonstrations and helpful answers"
            if policy.start == "sft"
            else "the base model",
        ),
        ("data", ", ".join(dict.fromkeys(f"{source.name} ({source.licence})" for source in sources))),
        *([("left out", ", ".join(config.leave_out.categories))] if config.leave_out.categories else []),
        (
            "rows per category",
            "; ".join(
                [str(data.quota or "all"), *(f"{name} {rows or 'all'}" for name, rows in data.category_quota.items())]
            ),
        ),
        (
            "reward models",
            f"one per category, objective `{config.rewards.objective}`, backbone `{config.rewards.backbone}`",
        ),
        ("GRPO", grpo_line(policy)),
        ("coefficient", f"`{hardness.combine}`, refreshed: {hardness.refresh}, sharpness {hardness.sharpness:g}"),
        ("adapters", f"LoRA rank {policy.lora.rank}, merged" if policy.lora.rank else "none: all weights"),
        ("seed", config.shown_seed),
    ]
    shown = {
        key: metrics[key]
        for key in ("first_reward", "last_reward", "kl", "mean_length")
        if isinstance(metrics.get(key), int | float)
    }
    rows.append(
        (
            "end of training",
            ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in shown.items()) or "not recorded",
        )
    )
    return [(key, value.replace("|", "\\|")) for key, value in rows]
