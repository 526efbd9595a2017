"""From a trained policy to the promoted one: the evidence, and the pointer that moves only on purpose."""

from drirl_core.promotion.candidate import CANDIDATE, build_candidate
from drirl_core.promotion.ledger import Ledger, NotPromotedError, Promotion, left_by_rollback

__all__ = ["CANDIDATE", "Ledger", "NotPromotedError", "Promotion", "build_candidate", "left_by_rollback"]
