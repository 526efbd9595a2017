"""Results of runs and evaluations under their own names: recorded, kept, listed and compared."""
