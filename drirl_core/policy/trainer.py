"""GRPO with dynamic reward scaling: the one file that overrides TRL's private methods.

Equation (METHOD section 5): A_gi = alpha_i * (R_gi - mean_g R) / std_g R. alpha goes on the advantage, because the group
normalisation would cancel it on the reward. `super()` does all of GRPO; after it the returned advantages are multiplied,
once a generation, in training mode only. Tested with TRL 1.16; tests/contract fails when an override is removed.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Protocol

import torch
from trl import GRPOTrainer

from drirl_core.errors import TrainingError
from drirl_core.models.sampling import exact_cpu_sampling


class CoefficientSource(Protocol):
    """Give alpha for the rows that were just rewarded."""

    def __call__(self, rows: list[dict[str, Any]], rewards: torch.Tensor, gather: Any) -> torch.Tensor:
        """Return alpha (B,), at least 0, mean 1 over the whole generation batch.

        Args:
            rows: this process's rows, one a completion, with all data set columns.
            rewards: (B,).
            gather: collects a list of Python objects over all processes.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return what to log about the last batch."""
        ...


class DynamicRewardScalingTrainer(GRPOTrainer):
    """Multiply GRPO's advantages by hardness coefficients.

    Args:
        coefficient: gives alpha for a generation batch; None leaves GRPO as it is.
        exact_sampling: draw completions by inverse transform, one random number a token; equal in distribution to
            the stock sampler and faster on a CPU.
        **arguments: everything `GRPOTrainer` takes.
    """

    def __init__(
        self, *, coefficient: CoefficientSource | None = None, exact_sampling: bool = False, **arguments: Any
    ) -> None:
        self._coefficient = coefficient
        self._exact_sampling = exact_sampling
        super().__init__(**arguments)
        self._uniforms = torch.Generator().manual_seed(self.args.seed)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        block = (
            exact_cpu_sampling(
                self.model, self.args.temperature, self._step_generator(), self.args.max_completion_length
            )
            if self._exact_sampling
            else contextlib.nullcontext()
        )
        with block:
            generated = super()._generate_single_turn(*args, **kwargs)
        self._log_time("time/sample_s", started)
        return generated

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        started = time.monotonic()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not torch.isfinite(rewards).all():
            raise TrainingError(
                f"{int((~torch.isfinite(rewards)).sum())} rewards are not finite; check the reward models' reports"
            )
        start = self.accelerator.process_index * len(prompts)  # super() gathered the rewards of all processes
        self._local_rewards = rewards[start : start + len(prompts)].sum(dim=1)  # (B,)
        self._log_time("time/reward_s", started)
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if self._coefficient is not None and self.model.training:
            from accelerate.utils import gather_object

            alpha = self._coefficient(inputs, self._local_rewards, gather_object).to(batch["advantages"])
            if not torch.isfinite(alpha).all() or (alpha < 0).any():
                raise TrainingError(
                    "alpha must be finite and at least 0; a negative one would turn the clipped objective round"
                )
            batch["advantages"] = batch["advantages"] * alpha  # (B,)
            for key, value in self._coefficient.metrics().items():
                self._metrics["train"][key].append(value)
        return batch

    def _step_generator(self) -> torch.Generator:
        """Seed by step, so that a resumed run draws what an uninterrupted one draws, and by process."""
        return self._uniforms.manual_seed(
            self.args.seed * 1_000_003 + self.state.global_step + (self.accelerator.process_index << 40)
        )

    def _log_time(self, key: str, started: float) -> None:
        self._metrics["train" if self.model.training else "eval"][key].append(time.monotonic() - started)
