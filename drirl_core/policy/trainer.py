"""GRPO and RLOO with dynamic reward scaling: the one file that overrides TRL's private methods.

Equation (docs/method.md, section 5): A_gi = alpha_i * (R_gi - mean_g R) / std_g R. alpha goes on the advantage, because
the group normalisation would cancel it on the reward. `super()` does all of GRPO; afterwards the returned advantages
are multiplied, once per generation, in training mode only. RLOO differs in its advantages alone, those of TRL's own
trainer, and is scaled in the same place. alpha is computed in TRL's call of the reward function,
because its public argument `log_metric` still reaches the log of the same step. Tested with TRL 1.16; tests/contract
fails when an override is removed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer, RLOOTrainer

from drirl_core.errors import TrainingError
from drirl_core.models.sampling import exact_cpu_sampling
from drirl_core.models.shared_prompts import prompts_once
from drirl_core.policy.lower_states import LowerStates
from drirl_core.policy.rollout import CoefficientSource, Processes, RolloutBatch
from drirl_core.policy.sharded import ShardedWeights
from drirl_core.policy.shared_states import SharedStates

Reward = Callable[..., Sequence[float | None]]
"""TRL's reward function: messages of prompts and completions and the data set columns, to a reward per completion."""


class RewardScaling:
    """Multiply the advantages of one of TRL's group trainers, the next class in the order of methods, by alpha."""

    model: Any
    args: Any
    state: Any
    accelerator: Any

    def __init__(
        self,
        *,
        reward_funcs: Reward,
        coefficient: CoefficientSource | None = None,
        exact_sampling: bool = False,
        read_completion: Callable[[Sequence[int]], str] | None = None,
        shared: SharedStates | None = None,
        lower: LowerStates | None = None,
        **arguments: Any,
    ) -> None:
        self._coefficient, self._exact_sampling = coefficient, exact_sampling
        self._shared, self._lower = shared, lower
        self._read_completion = read_completion
        self._alpha: torch.Tensor | None = None  # of the generation in progress, (B,)
        self._sampling_seconds = 0.0
        super().__init__(reward_funcs=self._with_coefficients(reward_funcs), **arguments)
        self._uniforms = torch.Generator().manual_seed(self.args.seed)

    def _with_coefficients(self, reward: Reward) -> Reward:
        """Return a reward function that checks the rewards, logs their time, and computes alpha from them."""

        @functools.wraps(reward)  # TRL logs its rewards under its name
        def rewarded(
            prompts: Sequence[Any],
            completions: Sequence[Any],
            *,
            log_metric: Callable[[str, float], None],
            **columns: Any,
        ) -> Sequence[float | None]:
            log_metric("time/sample_s", self._sampling_seconds)
            self._sampling_seconds, started = 0.0, time.monotonic()
            if self._read_completion is not None:
                completions = [self._read_completion(tokens) for tokens in columns["completion_ids"]]
            logged: set[str] = set()

            def noted(name: str, value: float) -> None:
                logged.add(name)
                log_metric(name, value)

            rewards = reward(prompts=prompts, completions=completions, log_metric=noted, **columns)
            for name in sorted(set(gather_object(sorted(logged))) - logged):
                log_metric(name, 0.0)  # a share of rows of which this process has none
            before = self._shared.taken_seconds() if self._shared else 0.0  # in the reference's pass
            log_metric("time/reward_s", before + time.monotonic() - started)
            started = time.monotonic()
            batch_rewards = _finite(rewards)
            if self._coefficient is not None and self.model.training:
                batch = RolloutBatch.of(prompts, completions, batch_rewards, columns)
                processes = Processes(self.accelerator.process_index, gather_object)
                found = self._coefficient.coefficients(batch, processes)
                self._alpha = torch.from_numpy(found.alpha)
                for key, value in found.metrics.items():
                    log_metric(key, value)
            log_metric("time/alpha_s", time.monotonic() - started)
            return rewards

        return rewarded

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        with contextlib.ExitStack() as blocks:
            if self._exact_sampling:
                drawn = (self.args.temperature, self._step_generator(), self.args.max_completion_length)
                place = (self.accelerator.process_index, self.accelerator.num_processes)
                blocks.enter_context(exact_cpu_sampling(self.model, *drawn, place))
                blocks.enter_context(prompts_once(self.accelerator.unwrap_model(self.model)))
            generated = super()._generate_single_turn(*args, **kwargs)
        self._sampling_seconds += time.monotonic() - started
        return generated

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        own, width = self.accelerator.unwrap_model(model), input_ids.shape[1] - logits_to_keep
        with contextlib.ExitStack() as blocks:
            if self._exact_sampling:
                blocks.enter_context(prompts_once(own, width, ends=not torch.is_grad_enabled()))
            if self._lower is not None:
                blocks.enter_context(self._lower.shared(own))
            if self._shared is not None:
                blocks.enter_context(self._shared.read(own, width, keep_prompts=self._exact_sampling))
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._alpha = None
        if self._shared is not None:
            self._shared.begin(inputs)
        if self._lower is not None:
            self._lower.begin()
        batch = super()._generate_and_score_completions(inputs)
        if self._alpha is not None:
            alpha = self._alpha.to(batch["advantages"])
            if not torch.isfinite(alpha).all() or (alpha < 0).any():
                raise TrainingError(
                    "alpha must be finite and at least 0; a negative one would reverse the clipped objective"
                )
            batch["advantages"] = batch["advantages"] * alpha  # (B,)
        return batch

    def _step_generator(self) -> torch.Generator:
        """Seed by step, so that a resumed run samples like an uninterrupted one; processes share the numbers out."""
        return self._uniforms.manual_seed(self.args.seed * 1_000_003 + self.state.global_step)


class DynamicRewardScalingTrainer(RewardScaling, ShardedWeights, GRPOTrainer):
    """Multiply GRPO's advantages by hardness coefficients.

    Args:
        reward_funcs: the one reward function.
        coefficient: computes alpha for a rollout batch; None leaves GRPO unchanged.
        exact_sampling: for a CPU: sample completions by inverse transform, one random number per token, equal in
            distribution to the stock sampler; and compute the prompt of a group once, equal up to rounding.
        read_completion: text of a completion's tokens, where TRL's own decoding loses the marks of thoughts; else None.
        shared: reads hidden states for the rewards in the reference's pass, equal up to rounding; else None.
        lower: keeps what lies below all adapters from the reference's pass for the update, equal up to rounding; else
            None.
        **arguments: other arguments of `GRPOTrainer`.
    """


class ScaledRlooTrainer(RewardScaling, ShardedWeights, RLOOTrainer):
    """Multiply the leave-one-out advantages of RLOO by hardness coefficients.

    Args:
        **arguments: those of `DynamicRewardScalingTrainer`, with others of `RLOOTrainer`.
    """


def _finite(rewards: Sequence[float | None]) -> list[float]:
    """Return the rewards; TRL would silently give a row without a reward the advantage 0.

    Raises:
        TrainingError: a reward is missing or not finite.
    """
    values = [math.nan if reward is None else float(reward) for reward in rewards]
    bad = sum(not math.isfinite(value) for value in values)
    if bad:
        raise TrainingError(f"{bad} rewards are not finite; check the reward models' reports")
    return values
