"""One frozen policy under many LoRA adapters: every row of a batch is read with the adapter that is named for it.

Modules are copied and weights are shared, so that the policy itself does not change and its weights are in memory once.
The output is the last layer's after the final norm, averaged over a completion's tokens. Completions of one prompt
under one adapter share a row of the batch, in which each of them sees the prompt and itself: the prompt is computed
once for all. Where only upper layers are adapted, the output of the lower ones is kept for rows that come again, see
`AdaptedPolicy.remember`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import peft
import torch
from torch import nn

from drirl_core.models.attention import SHARED_HEADS
from drirl_core.models.partial_pass import from_layer, output_types, until_layer
from drirl_core.models.side_by_side import BASE, SideBySide, can_lie_side_by_side
from drirl_core.models.token_rows import TokenRow

if TYPE_CHECKING:
    from drirl_core.models.loading import Policy

_BATCH_TOKENS = 4096
"""Padded tokens per forward pass."""
_PACK_TOKENS = 1024
"""Tokens of a row of the batch above which further completions of the prompt go to another one."""
_KEPT_BYTES = 2 << 30
"""Most memory for what the lower layers make of rows; further rows are computed completely each time."""
_SAME = 1e-3
"""Largest difference, relative to the largest value, of a pass that begins later and a complete one."""


class Pack(NamedTuple):
    """Completions of one prompt under one adapter, which share a row of the batch.

    Args:
        adapter: its name.
        prompt: tokens of the prompt.
        completions: tokens of each completion.
        rows: which rows they are.
    """

    adapter: str
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.prompt) + sum(map(len, self.completions))


class AdaptedPolicy:
    """Read rows with a frozen policy under the adapter that is named for each.

    Args:
        policy: the frozen policy. It is not changed.
        one_by_one: whether a mixed batch goes through the adapters of a layer one by one, as PEFT does it, instead of
            through all of them at once; equal up to rounding. Where a layer that is not linear is adapted, it always
            does.
    """

    def __init__(self, policy: Policy, *, one_by_one: bool = False) -> None:
        self._base = _with_same_weights(policy.model).eval()
        self._base.set_output_embeddings(nn.Identity())  # the last states themselves, not their logits
        self._base.config.tie_word_embeddings = False
        self._plain = _with_same_weights(self._base)
        self._decoder, self._device = self._base.get_decoder(), policy.device
        self._together = shares_rows(self._base.config)
        self._model: Any = None
        self._one_by_one = one_by_one
        self._beside: SideBySide | None = None
        self._active: tuple[str, bool] | None = None
        self._first = policy.depth
        self._memory: dict[tuple[Any, ...], torch.Tensor] | None = None

    @property
    def model(self) -> Any:
        """The model that adapters are for, without any, with the names of its layers."""
        return self._plain

    @property
    def dim(self) -> int:
        """Width H of what is read."""
        return int(self._base.config.get_text_config().hidden_size)

    def add(self, config: peft.LoraConfig) -> str:
        """Add an adapter with new weights, which changes nothing yet, and return its name.

        Args:
            config: rank, scale, and the layers that are adapted.
        """
        name = f"adapter_{0 if self._model is None else len(self._model.peft_config)}"
        if self._model is None:
            self._model = peft.get_peft_model(self._base, config, adapter_name=name)
        else:
            self._model.add_adapter(name, config)
        self._model.eval()
        for weight in self.weights(name).values():
            weight.requires_grad_(False)
        first = min(self._first, *(config.layers_to_transform or [0]))
        if self._memory is not None and first != self._first:
            self._memory = {}
        self._first, self._active, self._beside = first, None, None
        return name

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """Return the weights of an adapter by the name of their layer, such as `...q_proj.lora_A`, without a copy."""
        prefix = "base_model.model."
        return {
            ".".join(part for part in key.removeprefix(prefix).removesuffix(".weight").split(".") if part != name): own
            for key, own in self._model.named_parameters()
            if name in key.split(".")
        }

    @contextlib.contextmanager
    def remember(self) -> Iterator[None]:
        """Keep what the layers below all adapters make of rows while the block runs, for rows that come again."""
        before, self._memory = self._memory, {}
        try:
            yield
        finally:
            self._memory = before

    def features(self, rows: Sequence[TokenRow], adapters: Sequence[str]) -> torch.Tensor:
        """Return the mean of the last states over each completion's tokens.

        With gradients, where they are on, all rows must have the same adapter, and only its weights get some.

        Args:
            rows: tokens of B rows, none of their prompts empty.
            adapters: name of each row's adapter.

        Returns:
            float32 on the CPU, (B, H); 0 for an empty completion.

        Raises:
            ValueError: gradients are on and the rows have several adapters.
        """
        if torch.is_grad_enabled() and len(set(adapters)) > 1:
            raise ValueError("rows of several adapters are read without gradients; train one adapter at a time")
        if not rows:
            return torch.zeros(0, self.dim)
        pairs = list(zip(rows, adapters, strict=True))
        places = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}  # equal rows are computed once
        known, names = zip(*places, strict=True)
        packs = sorted(packs_of(known, names, together=self._together), key=lambda pack: pack.length)
        order = [row for pack in packs for row in pack.rows]
        values = torch.cat([self._means(part) for part in batches_of(packs)]).cpu()
        return values[torch.tensor(order).argsort()[[places[pair] for pair in pairs]]]

    def _means(self, packs: Sequence[Pack]) -> torch.Tensor:
        """Return the mean states of the packs' completions, one after the other, (n, H)."""
        hidden = self._hidden(packs).float()  # (b, T, H)
        most = max(len(pack.completions) for pack in packs)
        weights = torch.zeros(len(packs), most, hidden.shape[1])
        for i, pack in enumerate(packs):
            start = len(pack.prompt)
            for j, completion in enumerate(pack.completions):
                weights[i, j, start : start + len(completion)] = 1 / max(len(completion), 1)
                start += len(completion)
        means = weights.to(hidden.device) @ hidden  # (b, C, H)
        places = [i * most + j for i, pack in enumerate(packs) for j in range(len(pack.completions))]
        return means.flatten(0, 1)[torch.tensor(places, device=means.device)]

    def _hidden(self, packs: Sequence[Pack]) -> torch.Tensor:
        """Return the last states of a batch of packs, (b, T, H)."""
        names = [pack.adapter for pack in packs]
        inputs = self._inputs(packs)
        if len(set(names)) > 1:
            return self._mixed(names, inputs)
        active = names[0], torch.is_grad_enabled()
        if self._active != active:
            self._model.set_adapter(active[0], inference_mode=not active[1])
            self._active = active
        states = self._lower(packs)
        if states is None:
            return self._model(**inputs, use_cache=False).logits
        with from_layer(self._decoder, self._first, states):
            return self._model(**inputs, use_cache=False).logits

    def _mixed(self, names: Sequence[str], inputs: dict[str, Any]) -> torch.Tensor:
        """Return the last states of rows under several adapters, (b, T, H)."""
        if self._one_by_one or not can_lie_side_by_side(self._model):
            return self._model(**inputs, adapter_names=list(names), use_cache=False).logits
        if self._beside is None:
            self._beside = SideBySide(self._model)
        with self._beside.routing(names):
            return self._model(**inputs, adapter_names=[BASE] * len(names), use_cache=False).logits

    def _inputs(self, packs: Sequence[Pack]) -> dict[str, Any]:
        """Return what the model takes for packs, padded on the right."""
        width = max(pack.length for pack in packs)
        ids = torch.zeros(len(packs), width, dtype=torch.long)
        segments = torch.full((len(packs), width), -1, dtype=torch.long)  # 0: the prompt; j: completion j; -1: padding
        positions = torch.zeros(len(packs), width, dtype=torch.long)
        for i, pack in enumerate(packs):
            tokens = [*pack.prompt, *(token for completion in pack.completions for token in completion)]
            ids[i, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            start, begun = 0, 0
            for j, part in enumerate((pack.prompt, *pack.completions)):
                segments[i, start : start + len(part)] = j
                positions[i, start : start + len(part)] = torch.arange(begun, begun + len(part))
                start, begun = start + len(part), len(pack.prompt)
        given = {"input_ids": ids, "attention_mask": (segments >= 0).long()}
        if self._together:
            given |= {"attention_mask": sight(segments, self._base.dtype), "position_ids": positions}
        return {name: values.to(self._device) for name, values in given.items()}

    def _lower(self, packs: Sequence[Pack]) -> torch.Tensor | None:
        """Return the kept output of the layers below all adapters, (b, T, H); None where it is not kept."""
        if self._memory is None or self._first == 0:
            return None
        keys = [(pack.prompt, pack.completions) for pack in packs]
        missing = {key: pack for key, pack in zip(keys, packs, strict=True) if key not in self._memory}
        if missing:
            size = sum(states.nbytes for states in self._memory.values())
            more = sum(pack.length for pack in missing.values()) * self.dim * self._base.dtype.itemsize
            if size + more > _KEPT_BYTES:
                return None
            fresh = list(missing.values())
            if not self._memory and not self._can_begin_later(fresh):
                self._memory = None
                return None
            for key, pack, states in zip(missing, fresh, self._computed(fresh), strict=True):
                self._memory[key] = states[: pack.length].cpu().clone()
        kept = [self._memory[key].to(self._device) for key in keys]
        return nn.utils.rnn.pad_sequence(kept, batch_first=True)

    @torch.no_grad()
    def _computed(self, packs: Sequence[Pack]) -> torch.Tensor:
        return until_layer(self._base, self._first, **self._inputs(packs))

    @torch.no_grad()
    def _can_begin_later(self, packs: Sequence[Pack]) -> bool:
        """Try whether a pass from the first adapted layer on gives what a complete one gives; some decoders differ."""
        if getattr(self._decoder, "layers", None) is None:
            return False
        with output_types(self._decoder) as kinds:
            states = self._computed(packs)
        if not all(issubclass(kind, torch.Tensor) for kind in kinds):
            return False
        inputs = self._inputs(packs)
        complete = self._model(**inputs, use_cache=False).logits.float()
        with from_layer(self._decoder, self._first, states):
            later = self._model(**inputs, use_cache=False).logits.float()
        real = (torch.arange(complete.shape[1]) < torch.tensor([[pack.length] for pack in packs])).to(complete.device)
        return bool((complete - later)[real].abs().max() <= _SAME * complete[real].abs().max())


def _with_same_weights(model: Any) -> Any:
    """Copy the modules of a model; the copy has the same tensors, so that it takes no memory for weights."""
    weights = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(weight): weight for weight in weights})


def shares_rows(config: Any) -> bool:
    """Return whether completions of one prompt can share a row: plain attention, and positions by rotation.

    Args:
        config: the transformers configuration of the model.
    """
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None) or getattr(text, "rope_theta", None)
    plain = set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return bool(rotary and plain and not window) and config._attn_implementation in ("eager", "sdpa", SHARED_HEADS)


def packs_of(rows: Sequence[TokenRow], adapters: Sequence[str], *, together: bool = True) -> list[Pack]:
    """Put the completions of one prompt under one adapter together.

    Args:
        rows: tokens of B rows.
        adapters: name of each row's adapter.
        together: false gives one pack per row.
    """
    groups: dict[tuple[Any, ...], list[list[int]]] = {}
    for i, (row, adapter) in enumerate(zip(rows, adapters, strict=True)):
        parts = groups.setdefault((adapter, row.prompt, None if together else i), [[]])
        size = len(row.prompt) + sum(len(rows[other].completion) for other in parts[-1])
        if parts[-1] and size + len(row.completion) > _PACK_TOKENS:
            parts.append([])
        parts[-1].append(i)
    return [
        Pack(adapter, prompt, tuple(rows[i].completion for i in part), tuple(part))
        for (adapter, prompt, _), parts in groups.items()
        for part in parts
    ]


def batches_of(packs: Sequence[Pack]) -> Iterator[list[Pack]]:
    """Yield packs, sorted by length, in batches of a bounded number of padded tokens."""
    part: list[Pack] = []
    for pack in packs:
        if part and (len(part) + 1) * max(pack.length, part[-1].length) > _BATCH_TOKENS:
            yield part
            part = []
        part.append(pack)
    if part:
        yield part


def sight(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what each token sees: the prompt before it, its own completion up to itself, and no other completion.

    Args:
        segments: 0 at the prompt's tokens, j at those of completion j, -1 at padding, (b, T).
        dtype: of the model.

    Returns:
        0 where a token (third dimension) sees another (fourth), else the lowest number, (b, 1, T, T).
    """
    places = torch.arange(segments.shape[1], device=segments.device)
    before = places.unsqueeze(1) >= places
    own = (segments.unsqueeze(1) == 0) | (segments.unsqueeze(1) == segments.unsqueeze(2))
    itself = torch.eye(len(places), dtype=torch.bool, device=segments.device)  # padding too, or its rows were NaN
    seen = (before & own & (segments >= 0).unsqueeze(1)) | itself
    return (
        torch.zeros(seen.shape, dtype=dtype, device=segments.device)
        .masked_fill(~seen, torch.finfo(dtype).min)
        .unsqueeze(1)
    )
