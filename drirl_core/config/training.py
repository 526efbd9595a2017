"""Settings of rewards and policies. The string under a field is its help."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from drirl_core.config.lora import LoraConfig
from drirl_core.config.own_rewards import OwnRewardConfig
from drirl_core.config.reading import ADDED, added, require
from drirl_core.config.reward_adapter import RewardAdapterConfig

MOST_ROUNDS = 5
"""Outer rounds that rewards can be learned in: each further one costs a training and samples of its own."""


@dataclass(frozen=True)
class RewardsConfig:
    """Shadow reward models learned by maximum-likelihood IRL."""

    backbone: Literal["hidden_state", "embedding", "adapter"] = "hidden_state"
    """`hidden_state`: heads on a middle layer of the frozen policy; `embedding`: heads on a frozen sentence encoder;
    `adapter`: a LoRA adapter and a linear head on the frozen policy, which takes minutes and may learn more."""
    layer: float = 0.6
    """Layer that `hidden_state` reads: a share of the depth, below 1, or the number of a layer, such as 18."""
    features: Literal["completion", "prompt_and_completion"] = "prompt_and_completion"
    """What `hidden_state` reads: the mean over the completion's tokens, alone or with the last prompt token's state."""
    objective: Literal["maxent", "bradley_terry", "linear", "classifier"] = "maxent"
    """`maxent`: the IRL likelihood over the pool; `bradley_terry`: the demonstration against each completion; `linear`:
    the mean gap with an L2 penalty; `classifier`: right completions against wrong ones."""
    negatives: Literal["likely_wrong", "all"] = added("likely_wrong")
    """Whose samples count against the demonstration. `likely_wrong`: those of the initial model in the harm categories,
    because the SFT start refuses as the demonstration does and only style tells the two apart; in the helpful set those
    of the start, because the initial model answers there, or none where the start learned these very answers
    (`sft.harmless_target: own`). Of the policies of further `rounds`, which refuse and answer better than either, those
    samples that the rules judge finds wrong. `all`: those of all. Completions that were made to be wrong
    always count, and the objective `classifier` always reads all samples."""
    positives: Literal["demonstrations", "start", "both"] = added("demonstrations")
    """What is rewarded above the negatives. `start`: in place of the demonstrations the samples of the SFT start that
    the rules judge finds right, which are worded as the initial model's are, so that style tells nothing (AfD, arXiv
    2405.15624); a prompt without one is not learned from. `both`: these samples beside the demonstrations. No positive
    is set against another one, and rewards are still measured on the demonstrations."""
    beta: float = 1.0
    """Temperature of the KL-regularised policy in the likelihood."""
    include_demonstration: bool = True
    """Whether y_E joins the pool in the denominator; without it a separable pool drives the reward to infinity."""
    centre: float = 0.01
    """Weight of the penalty on the squared mean reward, so that categories compare."""
    l2: float = 0.01
    """Weight of the penalty on squared rewards (objective `linear` only)."""
    hidden: int = 64
    """Width of the head's hidden layer; 0 makes the head linear. The backbone `adapter` has linear heads."""
    dropout: float = 0.1
    """Dropout on the head's input; none with the backbone `adapter`."""
    epochs: int = 60
    """Passes over the training prompts; the epoch with the best validation loss is kept. The backbone `adapter` has
    passes, steps and a learning rate of its own, in `rewards.adapter`."""
    batch_size: int = 16
    """Prompts per step."""
    learning_rate: float = 1e-3
    """AdamW learning rate."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    ensemble: int = 1
    """Heads with seeds and bootstrap rows of their own that make one reward; 1 is a single head on all rows."""
    ensemble_penalty: float = 1.0
    """The reward of an ensemble is the mean of its heads minus this times their standard deviation."""
    labels: tuple[str, ...] = added(())
    """Files of completions that people labelled (columns prompt, completion, label: right or wrong) or of preference
    pairs (prompt, chosen, rejected), learned beside the demonstrations; jsonl, json, csv, tsv or parquet. A column
    category is optional. `drirl label` writes a file to fill in."""
    label_weight: float = added(1.0)
    """Weight of the loss of the labelled rows, where `rewards.labels` names some; that of the demonstrations is 1."""
    adapter: RewardAdapterConfig = field(default_factory=RewardAdapterConfig, metadata={ADDED: True})
    """The backbone `adapter`."""
    rounds: int = added(1)
    """Outer rounds, 1 to 5. 1 is the paper: rewards are learned once, on completions of the initial model and of the
    start. After each round but the last, a policy is trained on the rewards so far with alpha = 1 and completes the
    prompts of the pools; the next rewards are learned on the completions of all rounds. Each further round costs about
    one more policy."""
    round_samples: int = added(2)
    """Completions per prompt of the policy of each round, where `rounds` is above 1."""
    round_start: Literal["start", "previous"] = added("start")
    """Where policies start in each round, the final one too, where `rounds` is above 1: `start` is what `policy.start`
    says, and stays their KL reference; `previous` is the policy of the previous round, which then is the reference, so
    that the distance to the start can add up."""

    @property
    def of_backbone(self) -> RewardsConfig:
        """These settings with the passes, steps and learning rate of the backbone in use in place of the heads'."""
        if self.backbone != "adapter":
            return self
        own = {name: getattr(self.adapter, name) for name in ("epochs", "batch_size", "learning_rate")}
        return dataclasses.replace(self, **own)

    def __post_init__(self) -> None:
        require(
            self.backbone == "adapter" or self.adapter == RewardAdapterConfig(),
            f"rewards.adapter is set, but rewards.backbone is {self.backbone!r}, which does not read it; set "
            "rewards.backbone to adapter, or leave rewards.adapter out",
        )
        require(self.beta > 0, f"rewards.beta is {self.beta}; above 0")
        require(self.epochs >= 1 and self.batch_size >= 1, "rewards.epochs and rewards.batch_size must be at least 1")
        require(self.hidden >= 0, f"rewards.hidden is {self.hidden}; 0 for a linear head or a width")
        require(
            0 < self.layer < 1 or (self.layer >= 1 and self.layer == int(self.layer)),
            f"rewards.layer is {self.layer}; a share of the depth below 1, such as 0.6, or the number of a layer",
        )
        require(
            self.positives == "demonstrations" or self.objective != "classifier",
            f"rewards.positives is {self.positives!r} with the objective classifier, which reads all samples "
            "beside the demonstrations; set rewards.positives to demonstrations, or rewards.objective to maxent",
        )
        require(all(self.labels), "rewards.labels holds an empty text; name files, or leave it out")
        require(
            self.label_weight > 0,
            f"rewards.label_weight is {self.label_weight}; above 0. To learn without labels, empty rewards.labels",
        )
        require(
            bool(self.labels) or self.label_weight == 1,
            f"rewards.label_weight is {self.label_weight}, but rewards.labels is empty and nothing is weighted; name "
            "files of labels, or leave the weight out",
        )
        require(self.ensemble >= 1, f"rewards.ensemble is {self.ensemble}; at least 1")
        require(
            1 <= self.rounds <= MOST_ROUNDS,
            f"rewards.rounds is {self.rounds}; 1 (rewards are learned once) to {MOST_ROUNDS}",
        )
        require(self.round_samples >= 1, f"rewards.round_samples is {self.round_samples}; at least 1")
        require(0 <= self.dropout < 1, f"rewards.dropout is {self.dropout}; choose in [0, 1)")
        require(self.learning_rate > 0, f"rewards.learning_rate is {self.learning_rate}; above 0")
        for name in ("centre", "l2", "weight_decay", "ensemble_penalty"):
            require(getattr(self, name) >= 0, f"rewards.{name} is {getattr(self, name)}; at least 0")


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning on demonstrations and helpful answers: the start of the demo, and a baseline."""

    epochs: float = 2.0
    """Passes over the rows."""
    rows_per_category: int = 0
    """Rows used per harm category (0: all training rows)."""
    helpful_rows: int = added(0)
    """Rows used of the helpful set (0: all training rows). Where `contrast` is on, twins of the chosen unsafe prompts
    are chosen first."""
    target: Literal["answer", "demonstration"] = "answer"
    """Learn the answer alone, or the Chain-of-Draft and the answer."""
    harmless_target: Literal["answer", "own"] = added("answer")
    """What is learned for harmless prompts: the answer of the data set, or where the initial model answers its `own`
    greedy answer, as far as `answer_tokens`. Its own answers keep the model's fluency; sampling them takes minutes."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    batch_size: int = 16
    """Rows per step."""
    max_length: int = 256
    """Longest prompt and answer together, in tokens."""
    answer_tokens: int = added(0)
    """First tokens of each answer that are learned (0: all of it and its end). Whether a reply refuses is decided in
    the first ones. How a reply goes on is then not learned: watch the share of degenerate replies."""
    contrast: float = added(0.0)
    """Weight of a second loss, for unsafe prompts and their safe twins: which of the two answers belongs to which of
    the two prompts. Each pair adds two rows to a batch. 0 is off; without twins in the data nothing is compared."""
    contrast_tokens: int = added(0)
    """First tokens of an answer that are compared where `contrast` is on (0: all that are learned)."""
    decision: float = added(0.0)
    """Weight of a further loss: the decision whether to refuse, which is made by the first token of a reply (binary
    cross-entropy of the tokens that begin refusals against all others). In the likelihood of complete answers it is one
    token among many. 0 is off."""
    decision_prompts: int = added(0)
    """Further training prompts beside each row of a batch that only the decision is learned of, which costs less than
    half of a row: they have no answer. They are drawn from all prompts, those beyond `rows_per_category` and
    `helpful_rows` too, each equally often."""
    share_lower_layers: bool = added(False)
    """On a CPU, with adapters on upper layers alone (`lora.first_layer`), a `decision` and no `contrast`: compute what
    lies below the adapters once for all rows and prompts, before the first step. Elsewhere it has no effect, and a line
    says so. Pays where prompts come several times (`decision_prompts`); results differ by rounding."""
    validation_prompts: int = added(0)
    """Validation prompts, unsafe ones and look-alikes each, that are answered twice per epoch; the best checkpoint is
    published (`choose_by`). 0 publishes the last step."""
    choose_by: Literal["composite", "auc"] = added("composite")
    """What the best checkpoint has most of: `composite`, the difference of refused shares, which a few replies move;
    `auc`, that of the refusal score over all validation prompts: how well it tells unsafe prompts from look-alikes,
    wherever its replies draw the line."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters."""
    trl: Mapping[str, Any] = added({})
    """Fields of TRL's `SFTConfig` that no setting of ours decides, passed on unchanged (docs/how-to/trl-options.md)."""

    @property
    def own_answers(self) -> bool:
        """Whether the start learns the initial model's own answers to harmless prompts."""
        return self.harmless_target == "own"

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"sft.epochs is {self.epochs}; above 0")
        require(self.batch_size >= 1, f"sft.batch_size is {self.batch_size}; at least 1")
        require(self.rows_per_category >= 0, f"sft.rows_per_category is {self.rows_per_category}; 0 (all rows) or more")
        require(self.helpful_rows >= 0, f"sft.helpful_rows is {self.helpful_rows}; 0 (all rows) or more")
        require(self.learning_rate > 0, f"sft.learning_rate is {self.learning_rate}; above 0")
        require(self.max_length >= 8, f"sft.max_length is {self.max_length}; at least 8 tokens")
        require(self.answer_tokens >= 0, f"sft.answer_tokens is {self.answer_tokens}; 0 (all) or a number of tokens")
        require(
            not (self.answer_tokens and self.target == "demonstration"),
            f"sft.answer_tokens is {self.answer_tokens} with the target demonstration, whose first tokens are the "
            "draft and not the answer; set sft.answer_tokens to 0 or sft.target to answer",
        )
        require(
            not self.own_answers or self.answer_tokens > 0,
            "sft.harmless_target is own, but sft.answer_tokens is 0; set it to how many tokens of its own answers the "
            "model samples and learns, such as 20",
        )
        require(self.contrast >= 0, f"sft.contrast is {self.contrast}; 0 (off) or a weight")
        require(
            self.contrast_tokens >= 0, f"sft.contrast_tokens is {self.contrast_tokens}; 0 (all) or a number of tokens"
        )
        require(
            not self.contrast_tokens or self.contrast > 0,
            f"sft.contrast_tokens is {self.contrast_tokens}, but sft.contrast is 0 and nothing is compared; "
            "set sft.contrast to a weight, such as 1",
        )
        require(self.decision >= 0, f"sft.decision is {self.decision}; 0 (off) or a weight")
        require(self.decision_prompts >= 0, f"sft.decision_prompts is {self.decision_prompts}; 0 (none) or a number")
        require(
            not self.decision_prompts or self.decision > 0,
            f"sft.decision_prompts is {self.decision_prompts}, but sft.decision is 0 and nothing is learned of prompts "
            "without answers; set sft.decision to a weight, such as 2, or sft.decision_prompts to 0",
        )
        require(
            not (self.decision and self.target == "demonstration"),
            f"sft.decision is {self.decision} with the target demonstration, which begins with a draft, whatever comes "
            "of it; set sft.decision to 0 or sft.target to answer",
        )
        require(
            not self.contrast or self.batch_size % 2 == 0,
            f"sft.batch_size is {self.batch_size} with sft.contrast, which keeps twins together; choose an even number",
        )
        require(self.validation_prompts >= 0, f"sft.validation_prompts is {self.validation_prompts}; at least 0")


Baseline = Literal[
    "dpo",
    "dpo_s",
    "irft",
    "joint",
    "grpo",
    "staged_competence",
    "rloo",
    "rloo_s",
    "verifiable",
    "propositions",
    "best_of_n",
]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
"""Policies to compare with, in the order of the tables."""
BEST_OF_N: Baseline = "best_of_n"
"""The baseline without weights of its own: the SFT start, of whose completions the reward models choose one."""
TRAINED: tuple[Baseline, ...] = tuple(name for name in BASELINES if name != BEST_OF_N)
"""The baselines with weights of their own; the asset of each is `<name>_checkpoint`."""


@dataclass(frozen=True)
class PolicyConfig:
    """GRPO with dynamic reward scaling."""

    start: Literal["sft", "base"] = "sft"
    """Where the policy starts; the start is the KL reference as well."""
    steps: int = 24
    """Optimiser steps."""
    prompts_per_step: int = 8
    """Prompts (groups) per step."""
    num_generations: int = 4
    """G, completions per group."""
    micro_batch: int = 0
    """Completions per forward pass (0: all of a step at once); must divide prompts_per_step * num_generations."""
    helpful_share: float = 0.5
    """Share of harmless prompts among the training prompts."""
    look_alike_share: float = 0.5
    """Share of safe look-alikes among the harmless prompts."""
    share_lower_layers: bool = added(False)
    """On a CPU, with adapters on upper layers alone (`lora.first_layer`) and a `kl`: compute what lies below them once
    per step, in the reference's pass, and let the update begin there. Elsewhere it has no effect, and a line says so.
    Results differ by rounding."""
    draw: Literal["categories", "rows"] = added("categories")
    """How unsafe prompts are drawn: `categories` takes one of each category in turn, however many prompts it has;
    `rows` draws from all of them, so that a category has the share that it has of the data."""
    max_new_tokens: int = 48
    """Length limit of a completion."""
    temperature: float = 1.0
    """Sampling temperature of the rollouts."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    kl: float = 0.02
    """Weight of the KL to the reference (TRL's beta)."""
    order: Literal["random", "hardness"] = added("random")
    """Order of the unsafe prompts. `hardness`: those of a category are cut into `stages` equal parts by delta = 1 - W
    of their hardness table, and each stage draws from one part, the easiest first; it needs `completions.prompts: 0`.
    Harmless prompts have no hardness and are drawn in every stage."""
    stages: int = added(1)
    """Equal parts of the training: at least 2 where `order` is `hardness` or `renew_reference` is on, else 1."""
    renew_reference: bool = added(False)
    """At the first step of each stage but the first, the policy becomes the reference of the KL. With `order: hardness`
    and `hardness.combine: none` this is the baseline `staged_competence`."""
    num_iterations: int = 1
    """mu, passes over a generation batch."""
    epsilon: float = 0.2
    """Clip range."""
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "grpo"
    """How token losses are averaged."""
    reward: Literal["learned", "verifiable", "propositions"] = added("learned")
    """Who rewards the rollouts: the reward models of the categories, or as a control whether the rules judge finds a
    reply of the right kind (1 or -1), or what readable `propositions` of a reply are worth (it declines, names what is
    wrong, answers on topic), with weights learned by the same IRL objective."""
    own_rewards: tuple[OwnRewardConfig, ...] = added(())
    """Functions of your own whose values are added to the reward, each with its weight, before groups are centred."""
    scale_rewards: Literal["group", "batch", "none"] = added("group")
    """What the centred rewards of a group are divided by: their own standard deviation (the paper), that of the batch,
    or nothing. With `group`, a group whose completions are all alike gets advantages of unit size made of reward
    noise."""
    min_spread: float = added(0.0)
    """A group whose rewards have a smaller standard deviation teaches nothing: its advantages are 0, and all others
    are unchanged. 0 is off. Learned rewards have standard deviation 1 over their training pool."""
    over_refusal: float = added(0.0)
    """Bound on the refused share of look-alikes in rollouts: harmless rows gain weight while it is exceeded and lose
    weight below it (dual ascent); 0 leaves the weights to the shares of the prompts."""
    over_refusal_step: float = added(1.0)
    """Step size of that weight's logarithm per training step."""
    seed: int = added(-1)
    """Seed of this training alone, the order of its prompts and its samples; -1 for the seed of the run. Another one
    leaves data, start and rewards unchanged."""
    validation_prompts: int = added(0)
    """Validation prompts, unsafe ones and look-alikes each, that are answered at every checkpoint; the checkpoint with
    the best difference of refused shares is published. 0 publishes the last step."""
    save_steps: int = 8
    """Steps between checkpoints, from which a killed run resumes."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters."""
    trl: Mapping[str, Any] = added({})
    """Fields of TRL's `GRPOConfig` that no setting of ours decides, for the policy and the baselines that are GRPO."""
    rloo_trl: Mapping[str, Any] = added({})
    """Fields of TRL's `RLOOConfig` that no setting of ours decides, for the baselines `rloo` and `rloo_s`."""

    def __post_init__(self) -> None:
        require(
            self.num_generations >= 2, f"policy.num_generations is {self.num_generations}; a group needs at least 2"
        )
        require(
            self.steps >= 1 and self.prompts_per_step >= 1,
            "policy.steps and policy.prompts_per_step must be at least 1",
        )
        batch = self.prompts_per_step * self.num_generations
        require(
            self.micro_batch >= 0 and batch % (self.micro_batch or batch) == 0,
            f"policy.micro_batch {self.micro_batch} does not divide prompts_per_step {self.prompts_per_step} x "
            f"num_generations {self.num_generations} = {batch}; choose a divisor of {batch}",
        )
        require(0 <= self.helpful_share < 1, f"policy.helpful_share is {self.helpful_share}; choose in [0, 1)")
        require(
            0 <= self.look_alike_share <= 1, f"policy.look_alike_share is {self.look_alike_share}; choose in [0, 1]"
        )
        require(self.seed >= -1, f"policy.seed is {self.seed}; -1 for the seed of the run, or at least 0")
        require(0 <= self.over_refusal < 1, f"policy.over_refusal is {self.over_refusal}; choose in [0, 1)")
        functions = [one.function for one in self.own_rewards]
        require(len(set(functions)) == len(functions), f"policy.own_rewards names one twice: {', '.join(functions)}")
        require(self.kl >= 0, f"policy.kl is {self.kl}; at least 0")
        self._check_stages()
        require(self.min_spread >= 0, f"policy.min_spread is {self.min_spread}; 0 (off) or a standard deviation")
        require(self.validation_prompts >= 0, f"policy.validation_prompts is {self.validation_prompts}; at least 0")
        require(self.save_steps >= 1, f"policy.save_steps is {self.save_steps}; at least 1")
        require(self.num_iterations >= 1, f"policy.num_iterations is {self.num_iterations}; at least 1")
        require(self.max_new_tokens >= 1, f"policy.max_new_tokens is {self.max_new_tokens}; at least 1")
        for name in ("temperature", "learning_rate", "epsilon", "over_refusal_step"):
            require(getattr(self, name) > 0, f"policy.{name} is {getattr(self, name)}; above 0")

    def _check_stages(self) -> None:
        staged = [f"policy.order is {self.order!r}"] * (self.order == "hardness")
        staged += ["policy.renew_reference is true"] * self.renew_reference
        require(self.stages >= 1, f"policy.stages is {self.stages}; 1 (no stages) or more")
        require(
            not staged or self.stages >= 2,
            f"{' and '.join(staged)}, but policy.stages is {self.stages}; set it to 2 or more, such as 4",
        )
        require(
            bool(staged) or self.stages == 1,
            f"policy.stages is {self.stages}, but policy.order is 'random' and policy.renew_reference false, so that "
            "nothing is done in stages; set one of them, or policy.stages to 1",
        )
        require(
            self.stages <= self.steps,
            f"policy.stages is {self.stages} and policy.steps {self.steps}; a stage needs at least one step: lower "
            "policy.stages or raise policy.steps",
        )
        require(
            not self.renew_reference or self.kl > 0,
            "policy.renew_reference is true, but policy.kl is 0 and there is no reference; set policy.kl to a weight, "
            "such as 0.02, or policy.renew_reference to false",
        )
