"""What every reward model shares: its interface, rewards that can be compared between categories, and its files.

A backbone is one file below `backbones/`, named in `BACKBONES`: a class with the methods of `RewardModel`, whose `save`
and `load` use `write_model`, `read_weights` and `damage_reported`. Its `routed` scores a batch of mixed categories at
about the cost of one model: a backbone reads every text once and runs each small head on its own rows. `fit`
also needs its `prepare`, which reads the pools, `read_rows`, which reads rows beside them, and `rewards_of`, which
rewards rows that are read already. One whose rows are costly may have `pool_rewards`, which rewards pools, and `parts`,
which divides a step. The labelling queue chooses by its `row_features`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from drirl_core.errors import ArtifactError, TrainingError
from drirl_core.text.quality import has_words

if TYPE_CHECKING:
    from drirl_core.config import ModelsConfig
    from drirl_core.models.embeddings import Embedder
    from drirl_core.models.hidden_states import HiddenStates
    from drirl_core.rewards.pairs import Pool
    from drirl_core.store.artifacts import ArtifactStore

BACKBONES = {
    "embedding": "drirl_core.rewards.backbones.encoder:EmbeddingRewardModel",
    "hidden_state": "drirl_core.rewards.backbones.hidden_state:HiddenStateRewardModel",
    "adapter": "drirl_core.rewards.backbones.adapter:AdapterRewardModel",
    "ensemble": "drirl_core.rewards.ensemble:EnsembleRewardModel",
}
"""Class by the name in `reward_model.json`; imported when a model of that kind is opened."""

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "reward_model.json"
FORMAT, FORMAT_VERSION = "drirl-reward-model", 3

EMPTY_MARGIN = 1.0
"""An empty completion is rewarded this many standard deviations below the worst completion of the training pool."""
LEAST_CLOSEST = 0.9
"""Cosine of prompt and answer that is never taken for an echo; good answers stay below, reworded prompts are above."""
_ECHO_RAMP = 0.08
"""Distance beyond `Normalisation.closest` at which an answer counts as a complete echo."""
_LEAST_SCALE = 1e-6


class RewardModel(Protocol):
    """Reward completions of one category, r_k(x, y)."""

    backbone: ClassVar[str]
    reads: Literal["encoder", "policy"]
    category: str
    normalisation: Normalisation

    @property
    def batch_key(self) -> str:
        """Models with equal keys are scored together by `routed`."""
        ...

    def use(self, source: Any) -> None:
        """Take what it reads texts with: the `Embedder`, or the policy's `HiddenStates`, as `reads` says."""
        ...

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards of completions, float64, (B,); a draft before an answer is cut off."""
        ...

    @classmethod
    def routed(
        cls, models: Mapping[str, Any], prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]
    ) -> np.ndarray:
        """Return rewards of mixed rows, each by its own category's model, float64, (B,)."""
        ...

    def rewards_of(self, *inputs: Any) -> np.ndarray:
        """Return rewards of rows that are read already: tensors (B, ...), then prompts and answers, float64, (B,)."""
        ...

    def read_rows(self, *given: Any) -> tuple[np.ndarray, ...]:
        """Read rows beside the pools, given prompts, answers, source, settings and reporter: arrays (B, ...)."""
        ...

    def row_features(self, *inputs: Any) -> torch.Tensor:
        """Return what the head reads of rows that are read already, one vector per row, (B, F)."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model; equal models give equal bytes."""
        ...

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote, given the content of its `reward_model.json`."""
        ...


@dataclass(frozen=True)
class Normalisation:
    """What makes the rewards of categories comparable, taken over the training pool.

    Args:
        worst: lowest raw reward of a sampled completion or demonstration; degenerate text falls towards it.
        mean: mean of the gated raw rewards.
        scale: their standard deviation, above 0.
        closest: cosine between prompt and answer from which an answer begins to count as an echo of the prompt.
    """

    worst: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    closest: float = LEAST_CLOSEST


@dataclass(frozen=True)
class Prepared:
    """What a backbone makes of the prompts before a head is fitted.

    Args:
        train: pool of the training prompts.
        validation: pool of the validation prompts.
        untrained: makes a head with random weights.
        slow: whether a pass over the prompts takes minutes rather than milliseconds.
        block: what is entered while models are made and fitted.
    """

    train: Pool
    validation: Pool
    untrained: Callable[[], Any]
    slow: bool = False
    block: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def backbone_class(name: str) -> Any:
    """Import the class of a backbone by its name in `BACKBONES`."""
    module, _, attribute = BACKBONES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def source_of(
    reads: Literal["encoder", "policy"], models: ModelsConfig, store: ArtifactStore
) -> Embedder | HiddenStates:
    """Return what reward models read texts with, by their `reads`."""
    from drirl_core.models.embeddings import Embedder
    from drirl_core.models.hidden_states import HiddenStates

    return (HiddenStates if reads == "policy" else Embedder)(models, store)


def serving(model: Any, category: str) -> Any:
    """Return a reward model that serves another category than the one it was learned for, with the same weights."""
    other = copy.copy(model)
    other.category = category
    return other


def by_category(categories: Sequence[str], score: Callable[[str, np.ndarray], np.ndarray]) -> np.ndarray:
    """Score the rows of a mixed batch one category after the other, and return the values in the rows' order.

    Args:
        categories: category of each of B rows.
        score: given a category and the indices of its rows, returns one value per index.

    Returns:
        float64, (B,).
    """
    names, values = np.array(categories), np.zeros(len(categories))
    for category in dict.fromkeys(categories):
        rows = np.flatnonzero(names == category)
        values[rows] = score(category, rows)
    return values


def mlp(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Return a head, (..., width) -> (..., 1): dropout, one hidden layer of width `hidden` (0: none), one output."""
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    if hidden:
        layers += [nn.Linear(width, hidden), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(hidden or width, 1))


def mean_and_scale(values: np.ndarray, category: str) -> tuple[float, float]:
    """Return mean and standard deviation of the rewards of a training pool.

    Raises:
        TrainingError: the rewards are constant or not finite.
    """
    mean, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and scale > _LEAST_SCALE * max(1.0, abs(mean))):
        raise TrainingError(
            f"{category}: reward constant: over {len(values)} training rows its standard deviation is {scale:.2g}; "
            "nothing was learned. Raise rewards.learning_rate or rewards.epochs, or check that demonstrations and "
            "completions differ"
        )
    return mean, scale


def gated(raw: torch.Tensor, quality: torch.Tensor, worst: float | torch.Tensor) -> torch.Tensor:
    """Pull the rewards of degenerate text down: worst + quality * max(raw - worst, 0).

    Args:
        raw: raw rewards, any shape.
        quality: text quality in [0, 1], of the same shape; 1 leaves it as high as it is, 0 makes it `worst`.
        worst: the lowest reward that anything gets.

    Returns:
        Rewards of at least `worst`, of the same shape.
    """
    return worst + quality * (raw - worst).clamp(min=0)


def own_content(closeness: np.ndarray, closest: float) -> np.ndarray:
    """Return how much of an answer is more than an echo of its prompt.

    Args:
        closeness: cosine between prompt and answer, (B,).
        closest: cosine from which an answer begins to count as an echo.

    Returns:
        1 up to `closest`, falling to 0 at 0.08 above it, (B,).
    """
    return 1 - ((closeness - closest) / _ECHO_RAMP).clip(0, 1)


def normalised(raw: torch.Tensor, quality: np.ndarray, known: Normalisation, answers: Sequence[str]) -> np.ndarray:
    """Turn raw rewards into rewards that can be compared between categories.

    Args:
        raw: raw rewards, float64, (B,).
        quality: text quality in [0, 1], (B,).
        known: worst, mean and scale over the training pool.
        answers: the B answers without drafts.

    Returns:
        (gated reward - mean) / scale, and for an answer without words (worst - mean) / scale - EMPTY_MARGIN, which is
        below every other value; float64, (B,).
    """
    values = ((gated(raw, torch.from_numpy(quality), known.worst) - known.mean) / known.scale).numpy()
    lowest = (known.worst - known.mean) / known.scale - EMPTY_MARGIN
    return np.where([has_words(answer) for answer in answers], values, lowest)


def write_model(folder: Path, backbone: str, weights: Mapping[str, torch.Tensor], fields: Mapping[str, Any]) -> None:
    """Write weights and description of a reward model; equal models give equal bytes.

    Args:
        folder: an existing directory.
        backbone: its name in `BACKBONES`.
        weights: tensor by name.
        fields: what else `load` needs, as JSON data.
    """
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    write_description(folder, backbone, fields)


def write_description(folder: Path, backbone: str, fields: Mapping[str, Any]) -> None:
    """Write the description of a reward model alone; see `write_model`."""
    description = {"format": FORMAT, "format_version": FORMAT_VERSION, "backbone": backbone, **fields}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors that `write_model` wrote; use it within `damage_reported`."""
    return load_file(folder / WEIGHTS_FILE)


@contextlib.contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Turn errors from a damaged or foreign file while a model is loaded into one `ArtifactError`.

    Raises:
        ArtifactError: a file is damaged or does not fit the description.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"the reward model in {folder} is damaged or foreign ({_first_line(error)}); delete it and learn it again"
        ) from error


def require_finite_model(folder: Path, weights: Mapping[str, torch.Tensor], known: Normalisation) -> None:
    """Refuse a model that would give rewards that are not finite.

    Raises:
        ArtifactError: a weight or a constant is not finite, or the scale is 0.
    """
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()) and all(
        map(np.isfinite, asdict(known).values())
    )
    if not finite or known.scale <= 0:
        raise ArtifactError(
            f"the reward model in {folder} holds values that are not finite, or a scale of 0; learn it again"
        )


def load_reward_model(path: Path, source: Embedder | HiddenStates | None = None) -> RewardModel:
    """Open the reward model of an artifact.

    Args:
        path: directory with `reward_model.json` and `model.safetensors`.
        source: sentence encoder or hidden states, as it reads; may be given later by `use`, as `RewardRouter` does.

    Returns:
        The model, in evaluation mode.

    Raises:
        ArtifactError: a file is missing, damaged, or was written by another program or a later version.
        ModelError: the source is not the one it was learned on.
    """
    file = path / DESCRIPTION_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{file} cannot be read ({_first_line(error)}); give the directory of a reward_model artifact"
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ArtifactError(
            f"{file} does not describe a reward model of this project; give the directory of a reward_model artifact"
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{file} has format version {description.get('format_version')}, {FORMAT_VERSION} is read; "
            "learn the reward model again"
        )
    if description.get("backbone") not in BACKBONES:
        raise ArtifactError(f"{file} names the backbone {description.get('backbone')!r}; known: {', '.join(BACKBONES)}")
    model: RewardModel = backbone_class(description["backbone"]).load(path, description)
    if source is not None:
        model.use(source)
    return model


def require_finite(values: np.ndarray, categories: Sequence[str]) -> None:
    """Refuse rewards that are not finite.

    Raises:
        TrainingError: naming the first such row and its category.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TrainingError(
            f"the reward of row {bad[0]} ({categories[bad[0]]}) is {values[bad[0]]}; {len(bad)} of {len(values)} "
            "rewards are not finite. The reward model or what it reads is damaged: learn the reward model again"
        )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
