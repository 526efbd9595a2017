"""Supervised fine-tuning that compares twins: which of two answers belongs to which of two prompts.

An unsafe prompt and its safe twin differ in a few words. Likelihood alone spends its gradient on the wording of the
answers, and learns slowly which words of the prompt make the difference. The comparison leaves the wording out. For the
prompts u and s with the answers r and a,

    loss = -log sigmoid( B [ log pi(r|u) + log pi(a|s) - log pi(a|u) - log pi(r|s) ] )

is that of a choice between the right assignment and the crossed one. How likely an answer is by itself cancels out, so
that unlike DPO it needs no reference policy.

Whether a reply refuses is decided in its first tokens: the sums may stop there too, while likelihood learns the
complete answers, so that the replies also continue and end as they should.

The decision whether to refuse can be a loss of its own beside them (`decision`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from drirl_core.models.shared_prompts import prompts_once
from drirl_core.policy.decision import UNKNOWN, decision_loss, decisions, last_states
from drirl_core.policy.lower_states import LowerStates
from drirl_core.policy.sft_rows import TokenRow, TokenRows
from drirl_core.policy.together import SharedSftTrainer

BETA = 0.5
"""B of the loss; a log-probability is the sum over the compared tokens of an answer."""
MATCHED = "twins/matched"
"""Logged share of twins for whom the right assignment is likelier than the crossed one."""
DECIDED = "prompts/decided"
"""Logged share of prompts to which a reply more likely begins as it should."""
_IGNORED = -100
_ALONE = -1
"""In place of a pair's number: rows that are not compared."""
PROMPTS = "prompts"
"""Column of a row: further prompts of its batch, of which only the decision is learned; see `decision_rows`."""


def units_of(read: TokenRows, twin_of: Mapping[str, str], *, mixed: bool = False) -> list[list[TokenRow]]:
    """Put each unsafe row together with its twin; `pair` numbers the pairs, and is -1 in rows without a twin.

    Args:
        read: the rows, with their names.
        twin_of: name of a harmless row to the name of its unsafe twin. Of several with one twin the first counts.
        mixed: whether single rows stand in twos, so that they go into the same batches as pairs.

    Returns:
        Pairs, the unsafe row first, then single rows; with `mixed` two of similar length together.
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
    single = [{**row, "pair": _ALONE} for number, row in enumerate(read.rows) if number not in paired]
    if not mixed:
        return pairs + [[row] for row in single]
    by_length = sorted(single, key=lambda row: len(row["input_ids"]))
    return pairs + [by_length[start : start + 2] for start in range(0, len(by_length), 2)]


class TwinCollator:
    """Make a batch of rows, behind which the crossed rows of its pairs stand.

    Prompts are padded on the left and answers on the right, so that the rows of one prompt have equal columns before
    the answer.

    Args:
        padding: id of the padding token.
        limit: tokens per row at most; a crossed answer that does not fit is cut.
        compared: first tokens of an answer that are compared, and all that a crossed row holds; 0 takes all.
    """

    def __init__(self, padding: int, limit: int, compared: int = 0) -> None:
        self._padding, self._limit, self._compared = padding, limit, compared or limit

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        """Return the batch of N rows, the prompts without answers beside them among these, and 2 M crossed ones.

        Returns:
            `input_ids`, `attention_mask`, `position_ids` and `labels`, int64, (N + 2 M, T); `pairs`, rows of the M
            pairs, int64, (M, 2): row N + m is the first's prompt with the second's answer, row N + M + m the reverse;
            `prompt_width`, columns before the answers; and `unsafe`, 1 for a row with an unsafe prompt, 0 for a
            harmless and -1 for an unknown one, int64, (N,).
        """
        rows = [*rows, *(_without_answer(prompt) for row in rows for prompt in row.get(PROMPTS, ()))]
        parts = [_split(row) for row in rows]
        members: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            members.setdefault(row["pair"], []).append(place)
        pairs = [(places[0], places[1]) for pair, places in members.items() if pair >= 0 and len(places) == 2]
        crossed = [(parts[one][0], parts[other][1]) for one, other in pairs]
        crossed += [(parts[other][0], parts[one][1]) for one, other in pairs]
        parts += [
            (prompt, answer[: max(1, min(self._compared, self._limit - len(prompt)))]) for prompt, answer in crossed
        ]
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
            "prompt_width": width,
            "unsafe": torch.tensor([row.get("unsafe", UNKNOWN) for row in rows]),
        }


def _without_answer(prompt: TokenRow) -> TokenRow:
    return {**prompt, "labels": [_IGNORED] * len(prompt["input_ids"]), "pair": _ALONE}


def _split(row: TokenRow) -> tuple[list[int], list[int]]:
    labels = row["labels"]
    learned = (place for place, label in enumerate(labels) if label != _IGNORED)
    start = next(learned, len(labels))  # a blank row has none
    return row["input_ids"][:start], row["input_ids"][start:]


class TwinTrainer(SharedSftTrainer):
    """Add the comparison of twins and the decision to the likelihood; the batches are those of `TwinCollator`.

    Of several processes each compares its own pairs, and the mean is that over the pairs of all. So it is with the
    decisions.

    Args:
        contrast: weight of the comparison.
        compared: first tokens of an answer that are compared; 0 takes all.
        decision: weight of the decision whether to refuse.
        refusing: ids of the tokens that begin refusals; without one nothing is decided.
        lower: has what lies below the adapters for all rows; None where every step computes it.
        **arguments: other arguments of `SFTTrainer`.
    """

    loss_is_scaled_for_ga = False
    """The loss is a mean over one batch, so that transformers divides it by the batches whose gradients a step sums."""

    def __init__(
        self,
        *,
        contrast: float,
        compared: int = 0,
        decision: float = 0.0,
        refusing: Sequence[int] = (),
        lower: LowerStates | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.unit = 2 if contrast else 1
        self._contrast, self._compared, self._decision, self._lower = contrast, compared, decision, lower
        self._refusing = torch.tensor(refusing, dtype=torch.long, device=self.accelerator.device)
        self._right: dict[str, list[float]] = {}

    def _blank(self) -> dict[str, Any]:
        return {**super()._blank(), "unsafe": UNKNOWN, PROMPTS: []}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss of the rows, plus the weighted loss of the pairs; see `SFTTrainer.compute_loss`."""
        pairs, width = inputs["pairs"], int(inputs["prompt_width"])
        complete = {name: inputs[name] for name in inputs if name not in ("pairs", "prompt_width", "unsafe")}
        count = len(complete["labels"]) - 2 * len(pairs)
        scored: list[Any] = []
        policy = self.accelerator.unwrap_model(model)

        def of_the_rows(**asked: Any) -> Any:
            """Run the model on all rows; show TRL the outputs of those that are not crossed."""
            with last_states(policy) if len(self._refusing) else contextlib.nullcontext([]) as states:
                outputs = model(**{**asked, **complete})
            scored.append((outputs, states))
            shown = copy.copy(outputs)
            for name in ("log_probs", "label_mask", "entropy", "is_top1"):
                setattr(shown, name, getattr(outputs, name)[:count])
            return shown

        once = (
            prompts_once(policy, width, ends=False)
            if complete["labels"].device.type == "cpu"
            else contextlib.nullcontext()
        )
        rows = {name: value[:count] for name, value in complete.items()}
        later = self._lower.shared(policy) if self._lower else contextlib.nullcontext()
        with once, later:  # without `num_items_in_batch`, which counts the tokens of the crossed rows too
            loss = super().compute_loss(of_the_rows, rows, num_items_in_batch=self._tokens_of_all(rows["labels"]))
        outputs, states = scored[0]
        margins = matching_margins(outputs.log_probs, outputs.label_mask, pairs, self._compared)
        loss = loss + self._of_pairs(margins)
        if states:
            logits = policy.get_output_embeddings()(states[0][:count, width - 1]).float()
            loss = loss + self._of_prompts(decisions(logits, self._refusing), inputs["unsafe"])
        return (loss, None) if return_outputs else loss

    def _of_pairs(self, margins: torch.Tensor) -> torch.Tensor | float:
        """Return the weighted loss of this process's margins, as a part of the mean over those of all processes."""
        share = self._share_of(MATCHED, margins > 0)
        return self._contrast * share * matching_loss(margins) if len(margins) else 0.0

    def _of_prompts(self, odds: torch.Tensor, unsafe: torch.Tensor) -> torch.Tensor | float:
        """Return the weighted loss of this process's decisions, as a part of the mean over those of all processes."""
        known = unsafe != UNKNOWN
        odds, kinds = odds[known], unsafe[known]
        share = self._share_of(DECIDED, (odds > 0) == kinds.bool())
        return self._decision * share * decision_loss(odds, kinds) if len(kinds) else 0.0

    def _share_of(self, name: str, right: torch.Tensor) -> float:
        """Log how many of all processes are right; return this one's part of the mean, times the processes.

        Args:
            name: of the logged share.
            right: whether each of this process is, (N,).
        """
        total = int(self.accelerator.gather(torch.tensor([len(right)], device=right.device)).sum())
        if not total:
            return 0.0
        self._right.setdefault(name, []).append((self.accelerator.gather(right.sum()).sum().float() / total).item())
        return len(right) * self.accelerator.num_processes / total  # the gradients of all are averaged

    def _tokens_of_all(self, labels: torch.Tensor) -> torch.Tensor | None:
        """Return the learned tokens of the batch of all processes; None of one process, which counts for itself."""
        if self.accelerator.num_processes == 1:
            return None
        return self.accelerator.gather((labels[:, 1:] != _IGNORED).sum()).sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics, and the shares of twins and prompts that were right since the last time."""
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


def matching_loss(margins: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log sigmoid(B m) over the margins m, (M,)."""
    return -logsigmoid(BETA * margins).mean()
