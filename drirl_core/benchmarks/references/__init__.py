"""Floor and ceiling of an examination: what words alone tell, and what the frozen base model already knows."""
