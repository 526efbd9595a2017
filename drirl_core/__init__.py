"""DR-IRL: inverse reinforcement learning with dynamic reward scaling for safety alignment."""

__version__ = "0.1.0"
