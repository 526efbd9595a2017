"""Best-of-N: of several sampled completions, return the one with the highest expected reward.

At inference nobody says whether a prompt is unsafe, or of which category. So the reward of a completion is an
expectation, p * R_category + (1 - p) * R_helpful: p is the probability that the prompt is unsafe, by the linear probe
on hidden states that the reports call ceiling, and the category is the router's most probable one. Both were fitted on
training prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drirl_core import taxonomy
from drirl_core.errors import ConfigError, DataError
from drirl_core.reporting import Reporter
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.text.chain_of_draft import cut_draft

if TYPE_CHECKING:
    from drirl_core.config import Config
    from drirl_core.graph.planned import Named
    from drirl_core.models.sampling import Completion
    from drirl_core.project import Project
    from drirl_core.store.artifacts import ArtifactStore


class BestOfN:
    """Choose among completions by their expected reward.

    Args:
        rewards: reward models of all categories and of harmless prompts.
        category_of: returns the most probable category of each prompt.
        unsafe: returns the probability that each prompt is unsafe, (B,).
    """

    def __init__(
        self,
        rewards: RewardRouter,
        category_of: Callable[[Sequence[str]], Sequence[str]],
        unsafe: Callable[[Sequence[str]], np.ndarray],
    ) -> None:
        self._rewards, self._category_of, self._unsafe = rewards, category_of, unsafe

    def expected(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the expected reward of every completion.

        Args:
            prompts: B prompts.
            completions: for each prompt N completions; drafts are removed.

        Returns:
            For each prompt float64, (N,).

        Raises:
            DataError: the lengths differ, or a prompt has no completion.
            TrainingError: a reward is not finite.
        """
        if len(prompts) != len(completions) or not all(completions):
            given = sum(map(bool, completions))
            raise DataError(f"{len(prompts)} prompts, and completions for {given}; give each prompt at least one")
        owner = [row for row, own in enumerate(completions) for _ in own]
        answers = [cut_draft(text) for own in completions for text in own]
        asked = [prompts[row] for row in owner]
        categories = self._category_of(prompts)
        harm = self._rewards.rewards(asked, answers, [categories[row] for row in owner])
        helpful = self._rewards.rewards(asked, answers, [taxonomy.HELPFUL] * len(asked))
        p = np.asarray(self._unsafe(prompts), dtype=np.float64)[owner]
        ends = np.cumsum([len(own) for own in completions])[:-1]
        return np.split(p * harm + (1 - p) * helpful, ends)


@dataclass(frozen=True)
class Choice:
    """The completions of one prompt with their expected rewards.

    Args:
        completions: N completions.
        rewards: float64, (N,).
    """

    completions: Sequence[Completion]
    rewards: np.ndarray

    @property
    def place(self) -> int:
        """Place of the best completion; of equal ones the first."""
        return int(self.rewards.argmax())

    @property
    def best(self) -> Completion:
        """The completion that is taken."""
        return self.completions[self.place]


@dataclass(frozen=True)
class Reranking:
    """Best-of-N as a way of decoding.

    Args:
        samples: N, at least 2.
        chooser: chooses among them.
        temperature: of the samples.
        versions: version of each artifact that the choice rests on.
        prefill: words that every completion is made to begin with; empty for none.
    """

    samples: int
    chooser: BestOfN
    temperature: float
    versions: Mapping[str, str]
    prefill: str = ""

    @property
    def described(self) -> dict[str, float]:
        """What is recorded of it."""
        return {"temperature": self.temperature, "best_of": self.samples}

    def decode(
        self,
        policy: Any,
        prompts: Sequence[str],
        max_new_tokens: int,
        config: Config,
        store: ArtifactStore,
        reporter: Reporter,
    ) -> list[Choice]:
        """Sample N completions of each prompt and reward them.

        Args:
            policy: model reference, checkpoint directory or loaded policy.
            prompts: B prompts.
            max_new_tokens: length limit of a completion.
            config: says how models are loaded, how many prompts are sampled together, and the seed.
            store: keeps what was sampled.
            reporter: gets progress.

        Returns:
            B choices: rewards are those of the completions with the prefill, which they are returned without.
        """
        from drirl_core.models.sampling import SamplingSettings, sample

        batch = config.benchmarks.batch_size
        settings = SamplingSettings(max_new_tokens, self.temperature, batch, config.seed, self.prefill)
        drawn = sample(
            policy, prompts, self.samples, settings,
            models=config.models, store=store, reporter=reporter, vllm=config.execution.engine,
        )  # fmt: skip
        rewards = self.chooser.expected(prompts, [[self.prefill + one.text for one in own] for own in drawn])
        return [Choice(*one) for one in zip(drawn, rewards, strict=True)]


def load_reranking(named: Named, samples: int, reporter: Reporter) -> Reranking:
    """Make the reranking of a configuration or of a recorded result from its artifacts.

    Args:
        named: gives the reward models, the probe and the prompt pool that the router is fitted on.
        samples: N.
        reporter: gets the progress of reading prompts.

    Raises:
        ConfigError: N is below 2.
        ArtifactError: an artifact is not built yet; the message says which command builds it.
    """
    if samples < 2:
        raise ConfigError(f"--best-of {samples}: give at least 2, or leave it out for greedy decoding")
    project = named.project
    known = (*project.graph.categories, taxonomy.HELPFUL)
    found = named.open("prompt_pool", "reference_classifiers", *(f"reward_model_{name}" for name in known))
    versions = {name: artifact.version for name, artifact in found.items()}
    folders = {name: artifact.path for name, artifact in found.items()}
    return Reranking(
        samples, open_chooser(folders, project, reporter), project.config.completions.temperature, versions
    )


def open_chooser(folders: Mapping[str, Path], project: Project, reporter: Reporter) -> BestOfN:
    """Open what chooses among completions.

    Args:
        folders: directories of `prompt_pool`, `reference_classifiers` and all reward models, by asset name.
        project: the categories, the models and the store.
        reporter: gets the progress of reading prompts.

    Raises:
        DataError: there are several categories, and no router can tell which one a prompt is of.
    """
    from drirl_core.benchmarks.references.classifiers import load
    from drirl_core.models.embeddings import Embedder
    from drirl_core.models.hidden_states import HiddenStates

    config, store, categories = project.config, project.store, project.graph.categories
    states, embedder = HiddenStates(config.models, store), Embedder(config.models, store)
    known = (*categories, taxonomy.HELPFUL)
    models = {name: load_reward_model(folders[f"reward_model_{name}"]) for name in known}
    _, probe = load(folders["reference_classifiers"])

    def unsafe(prompts: Sequence[str]) -> np.ndarray:
        from scipy.special import expit

        return expit(probe.scores(states.of_prompts(prompts, probe.layer, reporter)))

    category_of = category_by_router(folders["prompt_pool"], categories, embedder, config.seed)
    return BestOfN(RewardRouter(models, embedder, states), category_of, unsafe)


def category_by_router(
    pool: Path, categories: Sequence[str], embedder: Any, seed: int
) -> Callable[[Sequence[str]], Sequence[str]]:
    """Return a function from prompts to their most probable categories."""
    from drirl_core.prompts.router import NoRouterError, router_of_pool

    if len(categories) == 1:
        return lambda prompts: [categories[0]] * len(prompts)
    try:
        router = router_of_pool(pool, embedder, seed)
    except NoRouterError as error:
        raise DataError(
            f"best-of-N needs a router, which says whose rewards a prompt gets: {error}; give sources with categories, "
            "or take best_of_n out of baselines"
        ) from error
    return lambda prompts: [found.best for found in router.route(embedder.encode(list(prompts)), 0.0)]
