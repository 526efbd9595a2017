"""Labels by people: which completions to have labelled, and how labelled ones teach the reward models."""
