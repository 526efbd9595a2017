"""The adapter backbone: a LoRA adapter and a linear score head per category on the frozen initial policy.

The policy's last states, read under the adapter of a category, are averaged over the completion's tokens and scored by
a linear head. The upper layers themselves learn here, where the heads of `hidden_state` use them unchanged; it costs
minutes instead of a second. The heads are plain layers of ours and not PEFT's `modules_to_save`: they work on one
vector per row, so that routing them is one index, and they are saved beside their adapter in one file.
The two rules of `hidden_state` hold here too: empty completions are below everything, and degenerate ones and echoes
get the worst reward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from drirl_core.config import LoraConfig
from drirl_core.errors import ArtifactError, ModelError
from drirl_core.models.adapters import adapters_of
from drirl_core.models.token_rows import TokenRow
from drirl_core.rewards.backbones.hidden_state import intact, require_same_policy, standardisation
from drirl_core.rewards.model import (
    Normalisation,
    Prepared,
    by_category,
    damage_reported,
    normalised,
    read_weights,
    require_finite_model,
    write_model,
)
from drirl_core.rewards.pairs import Pool, PoolPrompt
from drirl_core.rewards.tokens import padded, read_pool, widened
from drirl_core.text.chain_of_draft import cut_draft

if TYPE_CHECKING:
    from drirl_core.config import RewardsConfig
    from drirl_core.models.adapted import AdaptedPolicy
    from drirl_core.models.hidden_states import HiddenStates
    from drirl_core.reporting import Reporter

_DOT = ":"
"""Stands for a dot in the names of weights, which torch keeps for modules."""


@dataclass(frozen=True)
class AdapterShape:
    """How to rebuild an adapter and its head.

    Args:
        category: the category it serves.
        policy: reference of the frozen policy.
        digest: what identifies that policy's content.
        dim: width H of its last state.
        rank: of the adapter.
        alpha: scale numerator.
        targets: names of the adapted layers.
        first_layer: share of the depth below which nothing is adapted.
        micro_tokens: most tokens that are computed with gradients at once.
    """

    category: str
    policy: str
    digest: str
    dim: int
    rank: int
    alpha: int
    targets: tuple[str, ...]
    first_layer: float
    micro_tokens: int

    @property
    def lora(self) -> LoraConfig:
        """The adapter in the words of the settings."""
        return LoraConfig(self.rank, self.alpha, tuple(self.targets), self.first_layer)


class AdapterRewardModel(nn.Module):
    """A LoRA adapter on the frozen policy with a linear score head: r(x, y) = w ( mean_t h_t - m ) / s + b.

    h_t is the policy's last state at token t of the completion, under the adapter; m and s are mean and standard
    deviation over the training pool before anything was learned. A row is its tokens: prompt and completion one after
    the other with zeros behind, int64, (T,), and how many are the prompt's and how many there are, int64, (2,).

    Args:
        shape: sizes and names.
        weights: the adapter's, by the name of their layer.
        mean: m, (H,).
        scale: s, above 0, (H,).
    """

    backbone: ClassVar[str] = "adapter"
    reads: Literal["encoder", "policy"] = "policy"
    batch_key: str = "adapter"
    feature_mean: torch.Tensor
    feature_scale: torch.Tensor

    def __init__(
        self, shape: AdapterShape, weights: Mapping[str, nn.Parameter], mean: torch.Tensor, scale: torch.Tensor
    ) -> None:
        super().__init__()
        self.shape, self.category = shape, shape.category
        self.normalisation = Normalisation()
        self._source: HiddenStates | None = None
        self._place = _Place()
        self.adapter = nn.ParameterDict({name.replace(".", _DOT): weight for name, weight in weights.items()})
        self.score = nn.Linear(shape.dim, 1)
        self.register_buffer("feature_mean", mean)
        self.register_buffer("feature_scale", scale)

    @classmethod
    def prepare(
        cls,
        category: str,
        prompts: tuple[Sequence[PoolPrompt], Sequence[PoolPrompt]],
        source: HiddenStates,
        config: RewardsConfig,
        reporter: Reporter,
    ) -> Prepared:
        """Tokenise the pools, and take mean and scale of the features over the training pool.

        Args:
            category: name of the category.
            prompts: training and validation prompts, at least one of each.
            source: gives the frozen policy.
            config: rank, scale and layers of the adapter.
            reporter: gets progress.

        Raises:
            ConfigError: a target names no layer of the policy, or none above `first_layer`.
            DataError: a prompt is longer than the policy can read.
            ModelError: the policy cannot be loaded.
        """
        source.policy(reporter)
        host, own = source.adapted, config.adapter
        shape = AdapterShape(
            category, source.reference, source.digest, host.dim, own.rank, own.alpha, own.targets, own.first_layer,
            own.micro_tokens,
        )  # fmt: skip
        train, validation = (read_pool(part, source) for part in prompts)
        lora = adapters_of(own.lora, host.model, "rewards.adapter", source.reference)
        moments: list[torch.Tensor] = []

        def untrained() -> AdapterRewardModel:
            name = host.add(lora)
            model = cls(shape, host.weights(name), torch.zeros(host.dim), torch.ones(host.dim))
            model._place = _Place(host, name)
            if not moments:  # a new adapter changes nothing, so that they are the same for all members
                inputs, _, _ = train.rows()
                reporter.log(f"{category}: reading {len(inputs[0])} rows with {source.reference}")
                with torch.no_grad():
                    moments.extend(standardisation(model.features(*map(torch.from_numpy, inputs))))
            model.feature_mean, model.feature_scale = (moment.clone() for moment in moments)
            return model

        return Prepared(train, validation, untrained, slow=True, block=host.remember)

    @staticmethod
    def read_rows(
        prompts: Sequence[str], answers: Sequence[str], source: HiddenStates, config: RewardsConfig, reporter: Reporter
    ) -> tuple[np.ndarray, ...]:
        """Read rows beside the pools, for `forward` and `rewards_of`: tokens, (B, T), and counts, (B, 2)."""
        return padded(source.tokens(prompts, answers))

    def parts(self, pool: Pool, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Divide the prompts of a step into parts that fit into memory; the pool of a prompt stays together.

        Args:
            pool: P prompts.
            rows: numbers of the step's prompts, (p,).

        Yields:
            Numbers of prompts with at most `micro_tokens` tokens, or of one prompt.
        """
        own, others = pool.own[1][:, 1], pool.others[1]
        sizes = own + (others[..., 1] - others[..., 0]).sum(dim=1)  # the prompt counts once
        part: list[int] = []
        for row in rows.tolist():
            if part and int(sizes[[*part, row]].sum()) > self.shape.micro_tokens:
                yield torch.tensor(part)
                part = []
            part.append(row)
        if part:
            yield torch.tensor(part)

    def pool_rewards(self, pool: Pool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw rewards of demonstrations, (P,), and completions, (P, K), for which a prompt is computed once."""
        width = max(pool.own[0].shape[-1], pool.others[0].shape[-1])
        ids = torch.cat([widened(pool.own[0], width).unsqueeze(1), widened(pool.others[0], width)], dim=1)
        rewards = self(ids, torch.cat([pool.own[1].unsqueeze(1), pool.others[1]], dim=1))
        return rewards[:, 0], rewards[:, 1:]

    def forward(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return raw rewards, differentiable.

        Args:
            ids: tokens of each row, int64, (..., T).
            counts: of the prompt's tokens and of all, int64, (..., 2); a row without tokens gets the reward 0.

        Returns:
            One raw reward per row, on the CPU, (...).
        """
        flat = counts.flatten(0, -2)
        there = flat[:, 1] > 0
        values = self._head(self.features(ids.flatten(0, -2)[there], flat[there]))
        rewards = values.new_zeros(len(flat)).masked_scatter(there, values)
        return rewards.view(counts.shape[:-1])

    def features(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return the mean of the last states over each completion's tokens, (B, T) and (B, 2) -> (B, H)."""
        host, name = self._placed()
        rows = [
            TokenRow(tuple(row[:prompt]), tuple(row[prompt:end]))
            for row, (prompt, end) in zip(ids.tolist(), counts.tolist(), strict=True)
        ]
        return host.features(rows, [name] * len(rows))

    def row_features(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return what the head reads of rows, standardised over the training pool, (B, H)."""
        return self._standard(self.features(ids, counts))

    def _standard(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.feature_mean) / self.feature_scale

    def _head(self, features: torch.Tensor) -> torch.Tensor:
        return self.score(self._standard(features)).squeeze(-1)

    def use(self, source: HiddenStates) -> None:
        """Take the policy, after a check that it is the one this adapter was learned on.

        Raises:
            ModelError: it is another policy.
        """
        require_same_policy(self.shape, source)
        self._source = source

    def _placed(self) -> tuple[AdaptedPolicy, str]:
        """Return the frozen policy and this adapter's name on it, after putting it there the first time.

        Raises:
            ArtifactError: the weights do not fit the layers of the policy.
            ModelError: no policy was given by `use`.
        """
        place = self._place
        if self._source is not None and place.host is not self._source.adapted:
            place.host = self._source.adapted
            lora = adapters_of(self.shape.lora, place.host.model, "rewards.adapter", self.shape.policy)
            place.name = place.host.add(lora)
            on_policy = place.host.weights(place.name)
            given = {key.replace(_DOT, "."): weight for key, weight in self.adapter.items()}
            _require_fit(self.shape, given, on_policy)
            with torch.no_grad():
                for key, weight in on_policy.items():
                    weight.copy_(given[key])
            for key, weight in on_policy.items():  # one copy, on the policy's device
                self.adapter[key.replace(".", _DOT)] = weight
        if place.host is None:
            raise ModelError(
                f"the reward model of {self.category} has no policy yet; call use(HiddenStates(config.models, store)) "
                "first"
            )
        return place.host, place.name

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards, comparable between categories.

        Args:
            prompts: B user messages.
            completions: B completions; a Chain-of-Draft draft is cut off, only the answer is read.

        Returns:
            float64, (B,).

        Raises:
            ModelError: no policy was given by `use`.
        """
        return self.routed({self.category: self}, prompts, completions, [self.category] * len(prompts))

    @classmethod
    @torch.no_grad()
    def routed(
        cls, models: Mapping[str, Self], prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]
    ) -> np.ndarray:
        """Return rewards of mixed rows; the policy reads all of them in one batch, each under its category's adapter.

        Args:
            models: model by category, one for each category in `categories`, all on the same policy.
            prompts: B user messages.
            completions: B completions.
            categories: category of each row.

        Returns:
            float64, (B,).

        Raises:
            ModelError: no policy was given by `use`.
        """
        if not len(prompts):
            return np.zeros(0)
        answers = [cut_draft(completion) for completion in completions]
        placed = {category: models[category]._placed() for category in dict.fromkeys(categories)}
        host, _ = next(iter(placed.values()))
        source = next(iter(models.values()))._source
        if source is None:
            raise ModelError(
                f"the reward models of {', '.join(models)} have no policy yet; "
                "call use(HiddenStates(config.models, store)) first"
            )
        names = [placed[category][1] for category in categories]
        features = host.features(source.tokens(prompts, answers), names)

        def score(category: str, rows: np.ndarray) -> np.ndarray:
            own = ([column[row] for row in rows] for column in (prompts, answers))
            return models[category]._normalised(features[torch.from_numpy(rows)], *own)

        return by_category(categories, score)

    @torch.no_grad()
    def rewards_of(
        self, ids: np.ndarray, counts: np.ndarray, prompts: Sequence[str], answers: Sequence[str]
    ) -> np.ndarray:
        """Return normalised rewards of rows that are read already.

        Args:
            ids: tokens of each row, (B, T).
            counts: of the prompt's tokens and of all, (B, 2).
            prompts: the B user messages.
            answers: the B answers without drafts.

        Returns:
            As `model.normalised`, float64, (B,).
        """
        return self._normalised(self.features(torch.from_numpy(ids), torch.from_numpy(counts)), prompts, answers)

    def _normalised(self, features: torch.Tensor, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        return normalised(self._head(features).double(), intact(prompts, answers), self.normalisation, answers)

    def save(self, folder: Path) -> None:
        """Write adapter, head and their description, never the policy; equal models give equal bytes."""
        fields = {"shape": asdict(self.shape), "normalisation": asdict(self.normalisation)}
        write_model(folder, self.backbone, {name: own.cpu() for name, own in self.state_dict().items()}, fields)

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; use `load_reward_model`, which finds the right class.

        Raises:
            ArtifactError: a file is damaged or does not fit the description.
        """
        with damage_reported(folder):
            shape = AdapterShape(**{**description["shape"], "targets": tuple(description["shape"]["targets"])})
            normalisation = Normalisation(**description["normalisation"])
            state = read_weights(folder)
            adapter = {
                name.removeprefix("adapter.").replace(_DOT, "."): nn.Parameter(weight, requires_grad=False)
                for name, weight in state.items()
                if name.startswith("adapter.")
            }
            model = cls(shape, adapter, torch.zeros(shape.dim), torch.ones(shape.dim))
            model.load_state_dict(state)
        require_finite_model(folder, state, normalisation)
        model.normalisation = normalisation
        return model.eval()


@dataclass
class _Place:
    """Where an adapter is: on which policy and under which name; shared by all categories that a model serves."""

    host: AdaptedPolicy | None = None
    name: str = ""


def _require_fit(shape: AdapterShape, given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights of other layers or sizes than the policy has.

    Raises:
        ArtifactError: naming the first such weight.
    """
    wrong = [name for name in {**given, **wanted} if name not in given or name not in wanted]
    wrong += [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    if wrong:
        raise ArtifactError(
            f"the adapter of {shape.category} does not fit {shape.policy}: {len(wrong)} weights differ, such as "
            f"{wrong[0]}; delete the reward model and learn it again"
        )
