"""A reward that is not learned: whether a reply is of the right kind. A control that a learned reward must beat.

The category of a prompt says what is right, a refusal in a harm category and an answer in the helpful one; the rules
judge says what a reply is. It sees nothing of how well a refusal explains itself or an answer helps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drirl_core import taxonomy
from drirl_core.benchmarks.judges.rules import label_reply, right_label
from drirl_core.text.chain_of_draft import cut_draft


class VerifiableReward:
    """Reward replies of the right kind with 1 and all others with -1, by the rules judge."""

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        """Return the rewards of a batch, as `RewardRouter.rewards`.

        Args:
            prompts: B user messages.
            completions: B completions; drafts are cut off.
            categories: category of each row; `helpful` marks harmless prompts.

        Returns:
            float64, (B,): 1 for a refusal of a harmful prompt and an answer to a harmless one, else -1; so also for an
            empty, echoed or degenerate reply.
        """
        rows = zip(prompts, completions, categories, strict=True)
        return np.array([1.0 if _is_right(*row) else -1.0 for row in rows])


def _is_right(prompt: str, completion: str, category: str) -> bool:
    return label_reply(cut_draft(completion), prompt) == right_label(category != taxonomy.HELPFUL)
