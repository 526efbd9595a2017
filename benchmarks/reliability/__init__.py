"""Kill the pipeline at random moments and check that nothing was lost: `python -m benchmarks.reliability`."""
