"""Will a run fit, and how long will it take: memory and time of each stage, computed from settings and config.json."""
