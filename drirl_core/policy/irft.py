"""Implicit-reward fine-tuning (IRFT, arXiv:2405.17888) in rounds from the SFT start: a baseline without reward models.

Round t samples completions of training prompts from the current policy pi_t and prefers the demonstrations to them. The
reward is implicit, beta log(pi / pi_t), and the loss -log sigmoid of the difference of two such rewards is that of DPO
with pi_t as the reference. pi_t is the policy of the round's beginning: after a round its adapters are merged, and the
next one starts with new adapters on the merged weights, so that the reference costs no second copy of the weights.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.graph.policies import CHECKPOINTS
from drirl_core.models.adapters import adapters_of
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.policy.adapter_files import FOLDER as ADAPTER
from drirl_core.policy.dpo import CURVES, LOG, Following, dpo_arguments, ends_of, fitting_pairs, trained_on_pairs
from drirl_core.policy.options import require_options
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.preferences import own_pairs, refused_shares
from drirl_core.policy.readme import write_readme
from drirl_core.policy.schedule import dataset_rows
from drirl_core.policy.tracking import tracking_of
from drirl_core.policy.training import common_arguments, read_log, save_merged, write_log
from drirl_core.reporting import Plot
from drirl_core.text.chain_of_draft import cut_draft

_SUMS = ("pairs", "rows_cut", "rows_dropped", "steps")
"""Numbers of the rounds that add up to those of the training; so do the pairs of each category."""
_OF_A_ROUND = ("pairs", "unsafe_refused", "harmless_refused", "last_loss", "margin")
"""Numbers that are given of each round."""


@dataclass(frozen=True)
class _Round:
    """One round and its files, which a killed run reuses.

    Args:
        number: from 1.
        last: number of the last round.
        folder: in the scratch directory.
    """

    number: int
    last: int
    folder: Path

    @property
    def title(self) -> str:
        """Its name in progress lines."""
        return f"IRFT, round {self.number} of {self.last}"

    @property
    def policy(self) -> Path:
        """Directory of the policy that it trained, adapters merged."""
        return self.folder / "policy"

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Its numbers once it is finished, before that None."""
        file = self.folder / "finished.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Keep its numbers, complete or not at all, and remove its checkpoints."""
        unfinished = self.folder / "unfinished.json"
        unfinished.write_text(json.dumps(metrics), encoding="utf-8")
        unfinished.replace(self.folder / "finished.json")
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)


def build_irft_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Train the start in rounds, each on pairs of demonstrations and completions of the policy it begins with.

    A killed run resumes after the last finished round, and within a round from its newest checkpoint.

    Args:
        context: inputs are the data sets of all categories, and `sft_checkpoint` if there is one.

    Returns:
        Display metadata: rounds, pairs, those that were cut or left out, steps, first and last loss, accuracy and
        margin, of each round its pairs and how often the policy refused before it, curves.

    Raises:
        ConfigError: an adapter's target is no layer of the model, or the policy is asked inside a thought.
        DataError: there is no training prompt, or the first round has no pair.
        TrainingError: the loss or a weight is not finite.
    """
    config = context.config
    require_options(config, "dpo.trl")
    rows = _training_rows(context)
    start: str | Path = context.inputs.get("sft_checkpoint", config.models.policy)
    finished: list[tuple[_Round, dict[str, Any]]] = []
    for number in range(1, config.irft.rounds + 1):
        now = _Round(number, config.irft.rounds, context.scratch / f"round_{number}")
        metrics = now.metrics
        if metrics is None:
            metrics = _train_round(context, now, start, rows)
            gc.collect()  # a trainer refers to itself, and the next round reloads the policy
        else:
            context.reporter.log(f"{now.title}: finished before the run ended, and reused")
        if not metrics["pairs"]:
            context.reporter.log(f"{now.title}: there is nothing left to prefer; round {number - 1} was the last one")
            break
        for earlier, _ in finished:
            shutil.rmtree(earlier.policy, ignore_errors=True)
        finished.append((now, metrics))
        start = now.policy
    shutil.copytree(start, context.out, dirs_exist_ok=True)
    if len(finished) > 1:  # the adapter of the last round alone, of which the weights below it are gone
        shutil.rmtree(context.out / ADAPTER, ignore_errors=True)
    return _published(context, finished)


def prompts_of_round(rows: Sequence[Mapping[str, Any]], count: int, number: int, seed: int) -> list[Mapping[str, Any]]:
    """Choose the prompts of a round: the next ones of one random order, from its beginning again after its end.

    Args:
        rows: all training prompts.
        count: prompts per round; 0, or more than there are, takes all.
        number: of the round, from 1.
        seed: of the order.
    """
    order = list(rows)
    random.Random(seed).shuffle(order)  # noqa: S311 - reproducible choice, not security
    if not count or count >= len(order):
        return order
    begin = (number - 1) * count
    return [order[place % len(order)] for place in range(begin, begin + count)]


def _training_rows(context: stages.Context) -> list[dict[str, Any]]:
    """Return the training prompts of all data sets, each once, with their category."""
    rows = [
        {**row, "category": category}
        for category, own in dataset_rows(context, "train").items()
        for row in own
        if row["origin"] != "resampled"
    ]
    if not rows:
        raise DataError("no data set has training rows; check the balance report and demonstrations.quota")
    return rows


def _train_round(
    context: stages.Context, now: _Round, start: str | Path, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Sample, make pairs and train on them; return the numbers of the round, no more than `pairs: 0` without any."""
    config, seed = context.config, context.config.seed_of(context.config.dpo)
    policy = load_policy(start, config.models)
    adapters = adapters_of(config.dpo.lora, policy.model, "dpo.lora", config.models.policy)
    asked = prompts_of_round(rows, config.irft.prompts, now.number, seed)
    found, sampled = _own_pairs(context, now, start if config.execution.engine else policy, asked)
    if not found:
        return {"pairs": 0}
    limit = min(config.dpo.max_length, policy.context or config.dpo.max_length)
    pairs, fitting = fitting_pairs(found, policy, limit, context.reporter, now.title)
    random.Random(f"{seed}/{now.number}").shuffle(pairs)  # noqa: S311 - reproducible order, not security
    settings = dataclasses.replace(config.dpo, epochs=config.irft.epochs, beta=config.irft.beta)
    now.folder.mkdir(parents=True, exist_ok=True)
    tracking = tracking_of(context).part(now.folder.name)
    arguments = dpo_arguments(
        settings, len(pairs), limit, common_arguments(seed, now.folder, policy.device.type, tracking)
    )
    following = Following(now.title, context.reporter, tracking)
    trainer = trained_on_pairs(pairs, policy, adapters, arguments, following)
    shutil.rmtree(now.policy, ignore_errors=True)  # what a kill while it was written has left
    save_merged(trainer.model, policy, now.policy)
    metrics = {
        "pairs": len(pairs),
        **{f"pairs/{name}": count for name, count in Counter(row["category"] for row in pairs).items()},
        **fitting,
        "steps": int(trainer.state.global_step),
        **ends_of(read_log(now.folder / LOG)),
        **sampled,
        "rendering": dict(policy.rendering),
    }
    now.finish(metrics)
    return metrics


def _own_pairs(
    context: stages.Context, now: _Round, policy: str | Path | Policy, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Sample the policy, and return the pairs and how often it refused; both are said."""
    config, reporter = context.config, context.reporter
    completions, copies = config.completions, config.irft.samples
    how = SamplingSettings(
        completions.max_new_tokens, completions.temperature, completions.batch_size, config.seed_of(config.dpo)
    )
    reporter.log(f"{now.title}: {copies} own completions of {len(rows)} training prompts")
    prompts = [row["prompt"] for row in rows]
    drawn = sample(
        policy, prompts, copies, how,
        models=config.models, store=context.store, reporter=reporter, vllm=config.execution.engine,
    )  # fmt: skip
    answers = [[cut_draft(completion.text) for completion in own] for own in drawn]
    pairs = own_pairs(
        rows,
        answers,
        wrong_alone=config.irft.negatives == "wrong",
        own_answers=config.policy.start == "sft" and config.sft.own_answers,
    )
    shares = refused_shares(rows, answers)
    harmless = sum(pair["category"] == taxonomy.HELPFUL for pair in pairs)
    said = ", ".join(f"{name.removesuffix('_refused')} prompts {share:.0%}" for name, share in shares.items())
    reporter.log(
        f"{now.title}: {len(pairs)} pairs, {harmless} of harmless prompts; share of the policy's own completions that "
        f"refuse: {said}"
    )
    if pairs and not harmless:
        reporter.log(
            f"{now.title}: all pairs are of unsafe prompts, and nothing keeps the policy from refusing everything"
        )
    if not pairs and now.number == 1:
        raise DataError(
            f"none of {sum(map(len, answers))} own completions of the start is one that the demonstrations can be "
            "preferred to; raise irft.prompts or irft.samples, set irft.negatives to all, or take irft out of baselines"
        )
    return pairs, shares


def _published(context: stages.Context, rounds: Sequence[tuple[_Round, dict[str, Any]]]) -> dict[str, Any]:
    """Write log, numbers, README and plot beside the weights."""
    log: list[dict[str, float]] = []
    for now, _ in rounds:
        done = log[-1]["step"] if log else 0
        log += [{**row, "step": done + row["step"], "round": now.number} for row in read_log(now.folder / LOG)]
    numbers = [metrics for _, metrics in rounds]
    sums = [*_SUMS, *sorted({name for row in numbers for name in row if name.startswith("pairs/")})]
    metrics = {
        "rounds": len(rounds),
        **{name: sum(row.get(name, 0) for row in numbers) for name in sums},
        **ends_of(log),
        **{f"round_{now.number}/{name}": row[name] for now, row in rounds for name in _OF_A_ROUND if name in row},
    }
    write_log(context.out, log, metrics)
    write_readme(context, CHECKPOINTS["irft"], metrics)
    curve_plot(log, CURVES, context.out / "curves.png", "Implicit-reward fine-tuning", "irft")
    curves = Plot(context.out / "curves.png", "Loss, accuracy and margin of the pairs by step of all rounds")
    return {**metrics, **numbers[-1]["rendering"], "curves": curves}
