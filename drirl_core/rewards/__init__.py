"""Shadow reward models, one per category, learned by maximum-likelihood inverse reinforcement learning."""

from drirl_core.rewards.backbones.encoder import EmbeddingRewardModel
from drirl_core.rewards.backbones.hidden_state import HiddenStateRewardModel
from drirl_core.rewards.model import RewardModel, load_reward_model
from drirl_core.rewards.routing import RewardRouter

__all__ = ["EmbeddingRewardModel", "HiddenStateRewardModel", "RewardModel", "RewardRouter", "load_reward_model"]
