"""Kill the pipeline at random moments and look whether anything was lost: `python -m benchmarks.reliability`."""
