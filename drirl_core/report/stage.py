"""The asset `report`: one self-contained HTML page, and its numbers as JSON.

The page is kept out of the artifact's version (it shows times); `summary.json` holds no times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.judge_words import with_errors
from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.config import resolved
from drirl_core.config.base import BASE
from drirl_core.config.strict_yaml import dump_yaml
from drirl_core.errors import ArtifactError
from drirl_core.graph.build import Context
from drirl_core.pictures.palette import PALETTE
from drirl_core.redaction import redact
from drirl_core.report import data_sections, differences_section, gates_section, learning_sections, results_section
from drirl_core.report.headline import Verdict, group_rate, verdict
from drirl_core.report.propositions_section import propositions_section
from drirl_core.report.reading import manifests, read_json, read_rows
from drirl_core.report.rounds_section import rounds_section
from drirl_core.report.samples import CUT_CHARS
from drirl_core.reporting import Table

_REPLY_COLUMNS = ("group", "prompt_id", "prompt", "policy", "reply", "label")

_TEMPLATE = Path(__file__).with_name("template.html.j2")


def build_report(context: Context) -> dict[str, Any]:
    """Write `report.html` and `summary.json` from everything upstream.

    Args:
        context: inputs `benchmark_<suite>`, `policy_checkpoint`, `balance_report`, reward models, hardness tables and,
            if the policy started from it, `sft_checkpoint`; `proposition_reward` where there is one; and reward
            models, policies and pools of earlier rounds.

    Returns:
        The headline, the rates behind it and the table of policies.

    Raises:
        ArtifactError: an input or a table of one is missing; a missing picture is not.
    """
    results = read_results(context)
    context.reporter.log(f"report: {len(results)} suite(s), headline from {results[0]['suite']['name']}")
    page, summary = _compose(context, results)
    (context.out / "report.html").write_text(render_page(page), encoding="utf-8")
    text = json.dumps(_finite(summary), indent=1, sort_keys=True, allow_nan=False) + "\n"
    (context.out / "summary.json").write_text(text, encoding="utf-8")
    found: Verdict = page["verdict"]
    shown: dict[str, Any] = {
        "headline": found.sentence,
        "difference": round(found.difference, 6),
        "p": round(found.p, 6),
    }
    for name, group, table in (
        ("refusal", "unsafe", "rates"),
        ("over_refusal", "safe_look_alike", "rates"),
        ("helpful_correct", "helpful", "helpful"),
    ):
        rate = group_rate(results[0], ALIGNED, group, table)
        if rate is not None and rate["rate"] is not None:
            shown[name] = rate["rate"]
    keep = ("policy", "refusal", "over_refusal", "helpful_correct", "n")
    return {
        **shown,
        "results": Table([{key: row[key] for key in keep if row[key] is not None} for row in results[0]["summary"]]),
    }


def read_results(context: Context) -> list[dict[str, Any]]:
    """Read `results.json` of every suite, in the order of the configuration, with what is recorded of their judge.

    Raises:
        ArtifactError: there is no benchmark among the inputs, one has no results, or the record of the errors of judges
            cannot be read.
    """
    names = [f"benchmark_{suite.name}" for suite in context.config.benchmarks.suites]
    missing = [name for name in names if name not in context.inputs]
    if missing:
        raise ArtifactError(
            f"the report needs {', '.join(missing)} among its inputs, which are {sorted(context.inputs)}; "
            "materialize them first"
        )
    found = [read_json(context.inputs[name], "results.json", name) for name in names]
    return [with_errors(one, context.config, context.store) for one in found]


def render_page(page: Mapping[str, Any], template: Path = _TEMPLATE) -> str:
    """Fill a template; every text is escaped.

    Args:
        page: what it shows, as `page`.
        template: a file that may take parts from `parts.html.j2`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=loader)
    return environment.from_string(template.read_text(encoding="utf-8")).render(page=page)


def _compose(context: Context, results: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the template shows, and what `summary.json` keeps of it."""
    config, inputs = context.config, context.inputs
    found, settings = verdict(results[0]), redact(resolved(config))
    base = settings.pop(BASE)
    categories = context.graph.categories
    made = manifests(inputs, context.store)
    training = learning_sections.training_section(_needed(context, "policy_checkpoint"), inputs.get("sft_checkpoint"))
    rewards = learning_sections.reward_section(learning_sections.in_order(context.named("reward_model"), categories))
    hardness = learning_sections.hardness_section(
        learning_sections.in_order(context.named("hardness"), categories), config.seed
    )
    balance = data_sections.balance_section(_needed(context, "balance_report"), categories)
    rounds = rounds_section(context)
    balance["text"] += data_sections.coverage_text(context.named("safety_dataset"))
    page = {
        "title": f"DR-IRL report: {config.name}",
        "palette": list(PALETTE.items()),
        "base": _shown_base(base),
        "verdict": found,
        "tiles": results_section.tiles(results[0]),
        "suites": [
            {**results_section.suite_section(one), **results_section.kinds_section(_replies(context, one))}
            for one in results
        ],
        "training": training,
        "rewards": rewards,
        "rounds": rounds,
        "propositions": propositions_section(inputs.get("proposition_reward")),
        "hardness": hardness,
        "balance": balance,
        "safety_policy": data_sections.safety_policy_section(config),
        "time": data_sections.time_section(made, context.graph),
        "samples": [sample for one in results for sample in _samples(context, one)],
        "cut": CUT_CHARS,
        "gates": gates_section.gates_section(context),
        "differences": differences_section.differences_section(config),
        "setting": data_sections.setting_rows(config, results, made),
        "software": data_sections.software_rows(),
        "config": dump_yaml(settings, width=110),
        "limits": data_sections.limits(config, results),
    }
    summary = {
        "name": config.name,
        "seed": config.seed,
        "base": base,
        "headline": asdict(found),
        "verdicts": {one["suite"]["name"]: asdict(verdict(one)) for one in results},
        "suites": list(results),
        "training": training["metrics"],
        "reward_models": {"by_category": rewards["accuracy"], "calibration_error": rewards["calibration_error"]},
        "hardness": hardness["by_category"],
        "balance": {"before": balance["before"], "after": balance["after"]},
        "config": settings,
    }
    if rounds:
        summary["rounds"] = rounds["numbers"]
    return page, summary


def _shown_base(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the head of the page says of the base file; differences from the demo have a section of their own."""
    file = Path(base["file"])
    listed_below = file == differences_section.DEMO.resolve()
    return {"file": file.name, "differences": [] if listed_below else base["differences"]}


def _samples(context: Context, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return results_section.sample_section(results["suite"]["name"], _replies(context, results), results["policies"])


def _replies(context: Context, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    asset = f"benchmark_{results['suite']['name']}"
    return read_rows(context.inputs[asset], "replies.parquet", _REPLY_COLUMNS, asset)


def _needed(context: Context, name: str) -> Path:
    if name not in context.inputs:
        raise ArtifactError(
            f"the report needs {name} among its inputs, which are {sorted(context.inputs)}; materialize it first"
        )
    return context.inputs[name]


def _finite(value: Any) -> Any:
    """Turn NaN and infinities, which JSON cannot hold, into None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
