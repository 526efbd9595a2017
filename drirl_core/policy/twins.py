"""Supervised fine-tuning that compares twins: which of two answers belongs to which of two prompts.

An unsafe prompt and its safe twin differ in a few words. Likelihood alone spends its gradient on the wording of the
answers, and learns slowly which words of the prompt make the difference. The comparison leaves the wording out. For the
prompts u and s with the answers r and a,

    loss = -log sigmoid( B [ log pi(r|u) + log pi(a|s) - log pi(a|u) - log pi(r|s) ] )

is that of a choice between the right assignment and the crossed one. How likely an answer is by itself cancels out, so
that no reference policy is needed, as it is in DPO.

Twins alone teach that words mean nothing. So every harmless prompt s can also be ranked below unsafe prompts u of its
batch, its partners, by how likely the refusal r of u begins:

    loss = -log sigmoid( B [ log pi(r|u) - log pi(r|s) ] )

Here the answer to s is left out, and of the refusal all but its first tokens: they tell what a prompt is about, and
would match two prompts of different subjects without any idea of harm. Whether a reply refuses is decided in its first
tokens: the sums of twins may stop there too, while likelihood learns the whole answers, so that the replies also go on
and end as they should.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from drirl_core.models.shared_prompts import prompts_once
from drirl_core.policy.sft_rows import TokenRow, TokenRows
from drirl_core.policy.together import SharedSftTrainer

BETA = 0.5
"""B of the loss; a log-probability is the sum over the compared tokens of an answer."""
MATCHED = "twins/matched"
"""Logged share of twins for whom the right assignment is likelier than the crossed one."""
RANKED = "partners/ranked"
"""Logged share of partners of which the unsafe one is likelier refused."""
OPENING = 3
"""First tokens of a refusal by which partners are ranked."""
_IGNORED = -100
_ALONE, _HARMLESS, _UNSAFE = -1, -2, -3
"""In place of a pair's number: rows that are not compared, and those without a twin that are, with each other."""


def units_of(
    read: TokenRows, twin_of: Mapping[str, str], harmless: Collection[str] | None = None
) -> list[list[TokenRow]]:
    """Put each unsafe row together with its twin; `pair` numbers the pairs, and is below 0 in rows without a twin.

    Args:
        read: the rows, with their names.
        twin_of: name of a harmless row to the name of its unsafe twin. Of several with one twin the first counts.
        harmless: names of the harmless rows, which are ranked below unsafe rows of their batch; None where twins alone
            are compared.

    Returns:
        Pairs, the unsafe row first, then single rows; with `harmless` two single rows of similar length together, an
        unsafe and a harmless one as far as there are both, so that batches hold both kinds.
    """
    place: dict[str, int] = {}
    for number, name in enumerate(read.names):
        place.setdefault(name, number)  # a resampled copy of a row stays alone
    partner: dict[int, int] = {}  # of an unsafe row
    for safe, unsafe in twin_of.items():
        if safe in place and unsafe in place:
            partner.setdefault(place[unsafe], place[safe])
    pairs = [
        [{**read.rows[unsafe], "pair": number}, {**read.rows[safe], "pair": number}]
        for number, (unsafe, safe) in enumerate(sorted(partner.items()))
    ]
    paired = {*partner, *partner.values()}
    left = [
        (row, name)
        for number, (row, name) in enumerate(zip(read.rows, read.names, strict=True))
        if number not in paired
    ]
    if harmless is None:
        return pairs + [[{**row, "pair": _ALONE}] for row, _ in left]
    single = sorted(left, key=lambda one: len(one[0]["input_ids"]))
    answered = [{**row, "pair": _HARMLESS} for row, name in single if name in harmless]
    refused = [{**row, "pair": _UNSAFE} for row, name in single if name not in harmless]
    return pairs + _mixed(*sorted((refused, answered), key=len))


def _mixed(few: list[TokenRow], many: list[TokenRow]) -> list[list[TokenRow]]:
    """Put each of the fewer rows together with one of the many at its place by length, and those left over in twos."""
    met = {turn * len(many) // len(few): row for turn, row in enumerate(few)}
    rest = [row for place, row in enumerate(many) if place not in met]
    together = [[row, many[place]] for place, row in met.items()]
    return together + [rest[start : start + 2] for start in range(0, len(rest), 2)]


class TwinCollator:
    """Make a batch of rows, behind which the crossed rows of its pairs stand.

    Prompts are padded on the left and answers on the right, so that the rows of one prompt have equal columns before
    the answer.

    Args:
        padding: id of the padding token.
        limit: tokens per row at most; a crossed answer that does not fit is cut.
        compared: first tokens of an answer that are compared, and all that a crossed row holds; 0 takes all.
        partners: unsafe rows of the batch that each harmless row is ranked below, where there are as many.
    """

    def __init__(self, padding: int, limit: int, compared: int = 0, partners: int = 0) -> None:
        self._padding, self._limit, self._compared, self._partners = padding, limit, compared or limit, partners

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        """Return the batch of N rows, 2 M crossed ones of twins, and Q of partners.

        Returns:
            `input_ids`, `attention_mask`, `position_ids` and `labels`, int64, (N + 2 M + Q, T); `pairs`, rows of the M
            pairs, int64, (M, 2): row N + m is the first's prompt with the second's answer, row N + M + m the reverse;
            `partners`, an unsafe and a harmless row each, int64, (Q, 2): row N + 2 M + q is the harmless prompt with
            the first tokens of the unsafe row's answer; and `prompt_width`, columns before the answers.
        """
        parts = [_split(row) for row in rows]
        members: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            members.setdefault(row["pair"], []).append(place)
        pairs = [(places[0], places[1]) for pair, places in members.items() if pair >= 0 and len(places) == 2]
        unsafe = [*(one for one, _ in pairs), *members.get(_UNSAFE, [])]
        met = _met(unsafe, [*(other for _, other in pairs), *members.get(_HARMLESS, [])], self._partners)
        crossed = [(parts[one][0], parts[other][1]) for one, other in pairs]
        crossed += [(parts[other][0], parts[one][1]) for one, other in pairs]
        parts += [
            (prompt, answer[: max(1, min(self._compared, self._limit - len(prompt)))]) for prompt, answer in crossed
        ]
        parts += [(parts[harmless][0], parts[one][1][:OPENING]) for one, harmless in met]
        width = max(len(prompt) for prompt, _ in parts)
        shape = (len(parts), width + max(len(answer) for _, answer in parts))
        ids, mask = torch.full(shape, self._padding), torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, _IGNORED)
        for place, (prompt, answer) in enumerate(parts):
            columns = slice(width - len(prompt), width + len(answer))
            ids[place, columns] = torch.tensor([*prompt, *answer])
            mask[place, columns] = 1
            labels[place, width : width + len(answer)] = torch.tensor(answer)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
            "labels": labels,
            "pairs": torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
            "partners": torch.tensor(met, dtype=torch.long).reshape(-1, 2),
            "prompt_width": width,
        }


def _met(unsafe: Sequence[int], harmless: Sequence[int], partners: int) -> list[tuple[int, int]]:
    """Deal the unsafe rows of a batch to its harmless ones in turn, `partners` to each as far as there are as many."""
    each = min(partners, len(unsafe))
    return [
        (unsafe[(turn * each + number) % len(unsafe)], place)
        for turn, place in enumerate(harmless)
        for number in range(each)
    ]


def _split(row: TokenRow) -> tuple[list[int], list[int]]:
    labels = row["labels"]
    learned = (place for place, label in enumerate(labels) if label != _IGNORED)
    start = next(learned, len(labels))  # a blank row has none
    return row["input_ids"][:start], row["input_ids"][start:]


class TwinTrainer(SharedSftTrainer):
    """Add the comparison of twins and of partners to the likelihood; the batches are those of `TwinCollator`.

    Of several processes each compares its own pairs, and the mean is that over the pairs of all.

    Args:
        contrast: weight of the comparison.
        compared: first tokens of an answer that are compared; 0 takes all.
        **arguments: other arguments of `SFTTrainer`.
    """

    unit = 2

    def __init__(self, *, contrast: float, compared: int = 0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._contrast, self._compared = contrast, compared
        self._right: dict[str, list[float]] = {}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss of the rows, plus the weighted loss of the pairs; see `SFTTrainer.compute_loss`."""
        pairs, partners, width = inputs["pairs"], inputs["partners"], int(inputs["prompt_width"])
        complete = {name: inputs[name] for name in inputs if name not in ("pairs", "partners", "prompt_width")}
        compared = len(complete["labels"]) - len(partners)
        count = compared - 2 * len(pairs)
        scored: list[Any] = []

        def of_the_rows(**asked: Any) -> Any:
            """Run the model on all rows; show TRL the outputs of those that are not crossed."""
            outputs = model(**{**asked, **complete})
            scored.append(outputs)
            shown = copy.copy(outputs)
            for name in ("log_probs", "label_mask", "entropy", "is_top1"):
                setattr(shown, name, getattr(outputs, name)[:count])
            return shown

        once = (
            prompts_once(self.accelerator.unwrap_model(model), width, ends=False)
            if complete["labels"].device.type == "cpu"
            else contextlib.nullcontext()
        )
        rows = {name: value[:count] for name, value in complete.items()}
        with once:  # without `num_items_in_batch`, which counts the tokens of the crossed rows too
            loss = super().compute_loss(of_the_rows, rows, num_items_in_batch=self._tokens_of_all(rows["labels"]))
        log_probs, learned = scored[0].log_probs, scored[0].label_mask
        loss = loss + self._of_pairs(
            MATCHED, matching_margins(log_probs[:compared], learned[:compared], pairs, self._compared)
        )
        loss = loss + self._of_pairs(RANKED, ranking_margins(log_probs, learned, partners))
        return (loss, None) if return_outputs else loss

    def _of_pairs(self, name: str, margins: torch.Tensor) -> torch.Tensor | float:
        """Return the weighted loss of this process's margins, as a part of the mean over those of all processes."""
        total = int(self.accelerator.gather(torch.tensor([len(margins)], device=margins.device)).sum())
        if not total:
            return 0.0
        right = (self.accelerator.gather((margins > 0).sum()).sum().float() / total).item()
        self._right.setdefault(name, []).append(right)
        share = len(margins) * self.accelerator.num_processes / total  # the gradients of all are averaged
        return self._contrast * share * matching_loss(margins) if len(margins) else 0.0

    def _tokens_of_all(self, labels: torch.Tensor) -> torch.Tensor | None:
        """Return the learned tokens of the batch of all processes; None of one process, which counts for itself."""
        if self.accelerator.num_processes == 1:
            return None
        return self.accelerator.gather((labels[:, 1:] != _IGNORED).sum()).sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics, and the shares of twins and partners that were right since the last time."""
        if self._right and "loss" in logs:
            logs = {**logs, **{name: sum(found) / len(found) for name, found in self._right.items()}}
            self._right.clear()
        super().log(logs, start_time)


def matching_margins(
    log_probs: torch.Tensor, learned: torch.Tensor, pairs: torch.Tensor, compared: int = 0
) -> torch.Tensor:
    """Return by how much the right assignment of each pair is likelier than the crossed one, in nats, (M,).

    Args:
        log_probs: of the tokens of N rows, then of the M crossed answers of the pairs' first prompts, then of the
            second ones', (N + 2 M, T).
        learned: true at the tokens of answers, (N + 2 M, T).
        pairs: rows of each pair, (M, 2).
        compared: first tokens of an answer that count; 0 takes all.
    """
    if not len(pairs):
        return log_probs.new_zeros(0)
    place = learned.long().cumsum(dim=1)  # 1 at the first token of the answer
    counted = learned.bool() & (place <= compared) if compared else learned.bool()
    answers = log_probs.where(counted, 0).sum(dim=1)
    own = answers[pairs].sum(dim=1)
    first, second = answers[len(answers) - 2 * len(pairs) :].chunk(2)
    return own - first - second


def ranking_margins(log_probs: torch.Tensor, learned: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Return by how much the refusal's beginning is likelier after the unsafe prompt of each partners, in nats, (Q,).

    Args:
        log_probs: of the tokens of all rows, those of the Q crossed refusals last, (N, T).
        learned: true at the tokens of answers, (N, T).
        partners: an unsafe and a harmless row each, (Q, 2).
    """
    counted = learned.bool() & (learned.long().cumsum(dim=1) <= OPENING)
    openings = log_probs.where(counted, 0).sum(dim=1)
    return openings[partners[:, 0]] - openings[len(openings) - len(partners) :]


def matching_loss(margins: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log sigmoid(B m) over the margins m, (M,)."""
    return -logsigmoid(BETA * margins).mean()
