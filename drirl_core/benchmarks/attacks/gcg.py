"""Greedy coordinate gradient (GCG, arXiv 2307.15043): a suffix that makes a policy begin as the attacker wants.

The search is that of PyRIT, which is kept and installs beside the libraries here. Its own worker loads a model by its
name, in float16 and in another process, and waits forever when that process dies; here its steps run in this process
on a policy that is loaded already, so that every model reference, device and number type works, and an error is seen.
"""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from dataclasses import dataclass
from typing import Any

from drirl_core.config.reading import require
from drirl_core.errors import ConfigError, DataError
from drirl_core.models.likelihood import log_probs_now
from drirl_core.models.loading import Policy
from drirl_core.store.rowcache import content_key

PACKAGE, TESTED = "pyrit", "1.1.0"
START = " ".join("!" * 20)
"""Suffix that the search begins with."""


@dataclass(frozen=True)
class Search:
    """How much is searched.

    Args:
        steps: each replaces one token of the suffix, at least 1.
        candidates: suffixes tried per step, at least 1; their logits are in memory together.
        choices: tokens per place, those with the steepest gradient, among which candidates are drawn, at least 1.
        seed: of the candidates; each prompt has numbers of its own.
    """

    steps: int = 100
    candidates: int = 64
    choices: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "candidates", "choices"):
            require(getattr(self, name) >= 1, f"an attack with {getattr(self, name)} {name}: give at least 1")
        require(self.seed >= 0, f"an attack with the seed {self.seed}: give at least 0")


@dataclass(frozen=True)
class Attacked:
    """A prompt with the best suffix that was found.

    Args:
        prompt: the text to ask, suffix included.
        suffix: what was added.
        loss_before: mean negative log-probability per token of the target after the plain prompt, in nats.
        loss: the same after the attacked prompt.
    """

    prompt: str
    suffix: str
    loss_before: float
    loss: float


def library_version() -> str:
    """Return the version of the library, after a check that it is the tested one.

    Raises:
        ConfigError: it is not installed, or is another version: any release may change these parts.
    """
    hint = 'pip install -c constraints.txt "drirl[attacks]" (in a checkout: -e ".[attacks]")'
    try:
        found = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        message = f"attacks are searched with {PACKAGE}, which is not installed; install it with {hint}"
        raise ConfigError(message) from error
    require(found == TESTED, f"{PACKAGE} is {found}, and attacks need {TESTED}; install it with {hint}")
    return found


def require_known(policy: Policy, label: str) -> None:
    """Check that the library can take the gradient of this model's token embeddings.

    Args:
        policy: the loaded policy.
        label: what the user calls it, for the message.

    Raises:
        ConfigError: it knows no such model, or only in float16.
    """
    import torch

    library, _ = _library()
    model, token = policy.model, torch.zeros(1, 1, dtype=torch.long, device=policy.device)
    try:
        known = library.get_embeddings(model, token).dtype == library.get_embedding_matrix(model).dtype
    except ValueError:
        known = False
    require(
        known,
        f"{label} is a {type(model).__name__}; {PACKAGE} {TESTED} attacks Llama, Mistral, Mixtral and Phi-3 models, so "
        "choose one of those",
    )


def attack(policy: Policy, prompt: str, target: str, search: Search) -> Attacked:
    """Search a suffix after which the policy is most likely to begin its reply with the target.

    Args:
        policy: the loaded policy; its weights do not change.
        prompt: the question.
        target: how the reply should begin, without a blank at its ends.
        search: how much is searched.

    Returns:
        The best suffix. Both losses are computed here, on the prompts as suites are asked.

    Raises:
        DataError: the library cannot attack this prompt, because of how the tokenizer cuts prompt and suffix.
    """
    import torch

    library, gcg = _library()
    managers = {"AP": gcg.GCGAttackPrompt, "PM": gcg.GCGPromptManager, "MPA": gcg.GCGMultiPromptAttack}
    policy.model.requires_grad_(False)
    own = int(content_key(search.seed, prompt, target)[:15], 16)
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")  # the library's own choice
        torch.manual_seed(own)
        try:
            found = gcg.GCGMultiPromptAttack(
                [prompt], [target], [_Worker(policy, library)], control_init=START, managers=managers
            )
            found.run(
                n_steps=search.steps,
                batch_size=search.candidates,
                topk=min(search.choices, policy.tokenizer.vocab_size),
                target_weight=1.0,
                control_weight=0.0,
                anneal=False,
                stop_on_success=False,
                allow_non_ascii=False,
                verbose=False,
            )
        except (ValueError, IndexError) as error:
            raise DataError(f"{PACKAGE} cannot attack the prompt {prompt[:60]!r} ({error}); leave it out") from error
    suffix = found.last_run_state.best_control
    attacked = f"{prompt} {suffix}".strip()
    tokens = len(policy.tokenizer(target, add_special_tokens=False)["input_ids"])
    before, after = -log_probs_now(policy, [prompt, attacked], [target], 1)[:, 0] / tokens
    return Attacked(attacked, suffix, round(float(before), 5), round(float(after), 5))


class _Worker:
    """Do at once what the library's worker does in another process.

    Args:
        policy: the loaded policy.
        library: the module with its operations.
    """

    def __init__(self, policy: Policy, library: Any) -> None:
        self.model, self.tokenizer = policy.model, policy.tokenizer
        self._gradient = library.ModelWorkerOperation.GRAD
        self._found: Any = None
        self.results = self

    def __call__(self, prompts: Any, operation: Any, *args: Any, **named: Any) -> _Worker:
        import torch

        with torch.set_grad_enabled(operation is self._gradient):
            self._found = getattr(prompts, operation.value)(self.model, *args, **named)
        return self

    def get(self) -> Any:
        """Return the result of the last operation."""
        found, self._found = self._found, None
        return found


def _library() -> tuple[Any, Any]:
    """Import the parts of the library that are used: the models that it knows, and the search.

    Its notice that they may change is left out, because the version is checked; its log would hold every suffix.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyrit.executor.promptgen.gcg.attack.base import attack_manager
        from pyrit.executor.promptgen.gcg.attack.gcg import gcg_attack
    logging.getLogger(PACKAGE).setLevel(logging.WARNING)
    return attack_manager, gcg_attack
