"""Studies: several methods, settings and seeds, measured and compared on the same prompts."""
