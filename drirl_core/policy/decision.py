"""The decision whether to refuse, as a loss of its own: it is made by the first token of a reply.

Some tokens begin refusals more often than answers, in the answers that are learned: R. How likely a reply to the prompt
x begins with one of them, against all other tokens, is

    f(x) = log sum_{t in R} pi(t|x) - log sum_{t not in R} pi(t|x)

and the loss for the kinds u of prompts, 1 for an unsafe one and 0 for a harmless one, is

    loss = - mean [ u log sigmoid(f(x)) + (1 - u) log(1 - sigmoid(f(x))) ].

The likelihood of an answer has this in it: log pi(y|x) = log pi(R|x) + log pi(y_1|x, R) + ... But there it is one term
among those of all tokens of an answer, and the wording outweighs it.

A prompt needs no answer to learn the decision: prompts without one cost a part of a row, and stand beside rows in a
batch, so that the decision is learned of more prompts than the wording is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from drirl_core.models.shared_prompts import decoder_of

UNKNOWN = -1
"""Kind of a row that is not decided, such as a blank one."""


def refusing_tokens(openings: Sequence[tuple[int, bool]]) -> list[int]:
    """Return the tokens that begin a larger share of refusals than of other answers, in ascending order.

    Args:
        openings: first token of each learned answer, and whether its prompt is unsafe.

    Returns:
        Token ids; empty where all prompts are of one kind.
    """
    counts = {kind: Counter(token for token, unsafe in openings if unsafe is kind) for kind in (True, False)}
    totals = {kind: sum(found.values()) for kind, found in counts.items()}
    if not all(totals.values()):
        return []
    return sorted(t for t in counts[True] if counts[True][t] / totals[True] > counts[False][t] / totals[False])


def decisions(logits: torch.Tensor, refusing: torch.Tensor) -> torch.Tensor:
    """Return f(x), (N,): the log-odds that a reply begins with a refusing token.

    Args:
        logits: of the first token of a reply, (N, V).
        refusing: ids of the refusing tokens, (R,).
    """
    others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    others[refusing] = False
    return logits[:, refusing].logsumexp(dim=1) - logits[:, others].logsumexp(dim=1)


def decision_loss(odds: torch.Tensor, unsafe: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy.

    Args:
        odds: log-odds of refusing, (N,).
        unsafe: 1 for an unsafe prompt, 0 for a harmless one, (N,).
    """
    return binary_cross_entropy_with_logits(odds, unsafe.to(odds.dtype))


@contextlib.contextmanager
def last_states(model: Any) -> Iterator[list[torch.Tensor]]:
    """Note the last hidden states, (B, T, H), of each pass through the decoder of a transformers or PEFT model."""
    decoder = decoder_of(model)
    forward, noted = decoder.forward, []

    def noting(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        noted.append(outputs.last_hidden_state)
        return outputs

    with mock.patch.object(decoder, "forward", noting):
        yield noted
