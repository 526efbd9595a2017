"""What can be said about a run before it runs: models, adapters and lengths, looked at without any weights.

Each of these would otherwise be noticed after the stages of data, or after all training.
"""

from drirl_core.preflight.looking import OPTIONS, POLICY_STAGES, find_problems, refuse, require_sound

__all__ = ["OPTIONS", "POLICY_STAGES", "find_problems", "refuse", "require_sound"]
