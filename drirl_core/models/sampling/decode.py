"""Decode completions: exact draws from a policy by the inverse transform, in batches, and inside TRL's trainer."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from drirl_core.errors import TrainingError
from drirl_core.models.generation import end_tokens
from drirl_core.models.loading import Policy
from drirl_core.models.quantization import is_quantized
from drirl_core.models.sharding import is_sharded, without_gradients
from drirl_core.models.templates import PROBE, chat_text
from drirl_core.text.thoughts import MARKERS, opened_by

if TYPE_CHECKING:
    import torch

Row = TypeVar("Row")
Watch = Callable[[Policy, Sequence[str], "torch.Tensor", Any], None]
"""Called in the middle of decoding with the policy, B rendered prompts, their mask (B, T), and what the first pass made
of them: `logits` and `past_key_values`."""
_ROWS = 4
"""Rows of which tokens are drawn together on a CPU: what is made of their logits on the way stays in its caches."""


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of sampling.

    Args:
        max_new_tokens: length limit.
        temperature: 0 decodes greedily, 1 samples the policy itself.
        batch_size: rows decoded together.
        seed: seed of all rows.
        prefill: words that every completion is made to begin with; empty for none.
    """

    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int = 0
    prefill: str = ""


@dataclass(frozen=True)
class Completion:
    """One completion.

    Args:
        text: without special tokens, but with the marks of thoughts; a thought that the prompt opened begins it. After
            a prefill it is what the policy wrote, with the blanks before its first word.
        tokens: generated tokens, the end token included.
        finished: whether the policy ended it before the length limit.
    """

    text: str
    tokens: int
    finished: bool


def by_length(rows: Iterable[Row], text: Callable[[Row], str], size: int) -> Iterator[list[Row]]:
    """Yield batches of rows whose rendered texts are about equally long, so that little is padded.

    Args:
        rows: the rows.
        text: gives the rendered text of a row.
        size: rows per batch, at least 1.
    """
    ordered = sorted(rows, key=lambda row: len(text(row)))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def decode(
    policy: Policy,
    texts: Sequence[str],
    keys: Sequence[str],
    settings: SamplingSettings,
    watch: Watch | None = None,
) -> list[Completion]:
    """Decode one completion per row.

    Args:
        policy: the policy.
        texts: B rendered prompts (see `chat_text`), each with the prefill.
        keys: B hexadecimal content keys; each seeds the random numbers of its row.
        settings: how to sample; `batch_size` is not used.
        watch: gets what the policy made of the prompts, so that they need not be read again.

    Returns:
        B completions.

    Raises:
        TrainingError: the policy returned logits that are not finite.
    """
    import torch

    from drirl_core.models.sampling.running_rows import running_rows
    from drirl_core.models.shared_prompts import start_once, without_adapters

    batch = policy.tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False).to(policy.device)
    width = batch["input_ids"].shape[1]
    processors = []
    if settings.temperature > 0:
        streams = [torch.Generator().manual_seed(int(key[:15], 16)) for key in keys]
        uniforms = torch.stack(
            [torch.rand(settings.max_new_tokens, generator=stream, dtype=torch.float64) for stream in streams]
        )
        processors.append(inverse_transform(settings.temperature, uniforms, width))
    seen = functools.partial(watch, policy, texts, batch["attention_mask"]) if watch else None
    with (
        without_gradients(policy.model),
        start_once(policy.model),
        running_rows(policy.model, _ends(policy)),
        _first_pass(without_adapters(policy.model), seen) if seen else contextlib.nullcontext(),
    ):
        # Greedy search picks the only token that the processor leaves: this is exact sampling (see inverse_transform).
        output = policy.model.generate(**batch, generation_config=greedy(policy, settings), logits_processor=processors)
    ends = set(_ends(policy))
    last = output[:, width - 1].tolist() if settings.prefill else [None] * len(texts)
    rows = zip(output[:, width:].tolist(), texts, last, strict=True)
    return [completion_of(row, policy.tokenizer, ends, text, before) for row, text, before in rows]


@contextlib.contextmanager
def _first_pass(model: Any, seen: Callable[[Any], None]) -> Iterator[None]:
    """Call a function with the output of the first pass of a model in the block."""

    def first(module: Any, arguments: Any, output: Any) -> None:
        hook.remove()
        seen(output)

    hook = model.register_forward_hook(first)
    try:
        yield
    finally:
        hook.remove()


def greedy(policy: Policy, settings: SamplingSettings) -> Any:
    """Return the complete generation settings of a greedy search; nothing is left for a model's directory to fill in.

    Args:
        policy: its special tokens are used.
        settings: gives the length limit.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        pad_token_id=policy.tokenizer.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
        eos_token_id=_ends(policy),
    )


def _ends(policy: Policy) -> list[int]:
    return end_tokens(policy.tokenizer, {"eos_token_id": policy.model.generation_config.eos_token_id})


def completion_of(row: list[int], tokenizer: Any, ends: set[int], prompt: str, before: int | None) -> Completion:
    """Read what was decoded.

    Args:
        row: ids of the new tokens; what follows an end token is left out.
        tokenizer: of the policy.
        ends: ids of the tokens that end a completion.
        prompt: the rendered prompt.
        before: the last token of a prefill; None without one.
    """
    stop = next((i for i, token in enumerate(row) if token in ends), None)
    tokens = row if stop is None else row[:stop]
    text = completion_text(tokenizer, tokens, prompt) if before is None else _continued(tokenizer, before, tokens)
    return Completion(text, len(row) if stop is None else stop + 1, stop is not None)


def completion_text(tokenizer: Any, tokens: Sequence[int], prompt: str = "") -> str:
    """Decode a completion without special tokens, but with the marks of its thoughts, so that they can be cut.

    Args:
        tokenizer: of the policy.
        tokens: of the completion; special tokens among them are left out.
        prompt: the rendered prompt; the mark of a thought that it leaves open is put in front.
    """
    tags = opened_by(prompt)
    return (tags[0] if tags else "") + _with_marks(tokenizer, list(tokens)).strip()


def _continued(tokenizer: Any, before: int, tokens: Sequence[int]) -> str:
    """Decode tokens that continue after another one: some tokenizers lose the blank before a text's first word."""
    return _with_marks(tokenizer, [before, *tokens])[len(_with_marks(tokenizer, [before])) :].rstrip()


def _with_marks(tokenizer: Any, tokens: list[int]) -> str:
    """Decode tokens, and put the marks among the special ones where they were."""
    marks = {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content in MARKERS
    }
    pieces, begin = [], 0
    for place in [i for i, token in enumerate(tokens) if token in marks]:
        pieces += [tokenizer.decode(tokens[begin:place], skip_special_tokens=True), marks[tokens[place]]]
        begin = place + 1
    return "".join([*pieces, tokenizer.decode(tokens[begin:], skip_special_tokens=True)])


def reader_of_completions(tokenizer: Any) -> Callable[[Sequence[int]], str] | None:
    """Return what decodes completions where a trainer's own decoding loses the marks of thoughts.

    Args:
        tokenizer: of the policy.

    Returns:
        A function of the tokens; None where no mark is a special token and no thought is opened by the template.
    """
    prompt = chat_text(tokenizer, PROBE)
    special = any(token.special and token.content in MARKERS for token in tokenizer.added_tokens_decoder.values())
    return functools.partial(completion_text, tokenizer, prompt=prompt) if special or opened_by(prompt) else None


def inverse_transform(temperature: float, uniforms: torch.Tensor, prompt_width: int) -> Any:
    """Make a logits processor that samples exactly by inverting the distribution function.

    One uniform number per token replaces one random number per vocabulary entry: with 49,152 entries the usual
    multinomial sampling takes a quarter of a decoding step on a CPU. The processor leaves only the drawn token, which
    greedy search then takes.

    Args:
        temperature: divides the logits, above 0.
        uniforms: numbers in [0, 1), float64, (B, number of new tokens or more).
        prompt_width: tokens before the first new one.

    Returns:
        A callable (input_ids (B, T), scores (B, V)) -> scores (B, V), 0 at the drawn token and -inf elsewhere.
    """
    import torch

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        numbers = uniforms[:, input_ids.shape[1] - prompt_width].to(scores.device).unsqueeze(1)  # (B, 1)
        size = _ROWS if scores.device.type == "cpu" else len(scores)
        parts = zip(scores.split(size), numbers.split(size), strict=True)
        tokens = torch.cat([_drawn(part, temperature, own) for part, own in parts])
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens, 0.0)

    return process


def _drawn(scores: torch.Tensor, temperature: float, numbers: torch.Tensor) -> torch.Tensor:
    """Return the token of each row whose share of the distribution holds its number, (B, V) and (B, 1) to (B, 1)."""
    import torch

    reached = torch.softmax(scores.float() / temperature, dim=-1).cumsum(dim=-1, dtype=torch.float64)  # (B, V)
    if not torch.isfinite(reached[:, -1]).all():
        raise TrainingError(
            "the policy's logits are not finite; its weights are damaged or training diverged (lower the learning rate)"
        )
    return torch.searchsorted(reached, numbers * reached[:, -1:], right=True).clamp(max=scores.shape[1] - 1)


@contextlib.contextmanager
def exact_cpu_sampling(
    model: Any,
    temperature: float,
    generator: torch.Generator,
    max_new_tokens: int,
    place: tuple[int, int] = (0, 1),
) -> Iterator[None]:
    """Let `model.generate` sample by `inverse_transform` inside the block.

    Args:
        model: a transformers or PEFT model whose `generate` gets `input_ids` and a `generation_config`.
        temperature: divides the logits, above 0.
        generator: source of the uniform numbers; advances.
        max_new_tokens: uniform numbers drawn per row.
        place: number of this process, and of all that sample equally many rows of one batch. Each draws the numbers of
            all rows and takes its own, so that a row is the same with any number of processes.
    """
    import torch

    original = model.generate

    @functools.wraps(original)
    def generate(*args: Any, generation_config: Any = None, **kwargs: Any) -> Any:
        rows, width = kwargs["input_ids"].shape
        process, processes = place
        every = torch.rand(rows * processes, max_new_tokens, generator=generator, dtype=torch.float64)
        uniforms = every[rows * process : rows * (process + 1)]
        plain = type(generation_config).from_dict(
            {**generation_config.to_dict(), "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        with ready_to_decode(model):
            return original(
                *args,
                generation_config=plain,
                logits_processor=[inverse_transform(temperature, uniforms, width)],
                **kwargs,
            )

    model.generate = generate
    try:
        yield
    finally:
        del model.generate  # restores the class's method


@contextlib.contextmanager
def ready_to_decode(model: Any) -> Iterator[None]:
    """Use the attention that is fast without gradients and merge adapters; restore both bit by bit afterwards.

    Decoding reads every weight once per token: an adapter's two small products per layer would add half of that cost.
    The merged weights are rounded as in the published checkpoint. Adapters of quantised or sharded weights stay beside
    them.

    Args:
        model: a transformers or PEFT model.
    """
    import peft
    import torch

    from drirl_core.models.attention import SHARED_HEADS

    adapted = isinstance(model, peft.PeftModel)
    base = model.get_base_model() if adapted else model
    # Four bits have no room for an adapter, and of weights that are sharded a process has a part.
    merged = adapted and not is_quantized(base) and not is_sharded(base)
    tuned = base.modules() if merged else ()
    layers = [layer for layer in tuned if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().clone() for weight in weights]
    attention = base.config._attn_implementation
    if getattr(base, "_supports_sdpa", False) and attention != SHARED_HEADS:
        base.set_attn_implementation("sdpa")
    if merged:
        model.merge_adapter()
    try:
        yield
    finally:
        base.set_attn_implementation(attention)
        if merged:
            model.unmerge_adapter()
            with torch.no_grad():
                for weight, before in zip(weights, kept, strict=True):
                    weight.copy_(before)
