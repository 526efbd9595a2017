"""Promotion of a trained policy: the evidence, and the pointer that only an explicit command moves."""

from drirl_core.promotion.candidate import CANDIDATE, build_candidate
from drirl_core.promotion.ledger import Ledger, NotPromotedError, Promotion, left_by_rollback

__all__ = ["CANDIDATE", "Ledger", "NotPromotedError", "Promotion", "build_candidate", "left_by_rollback"]
