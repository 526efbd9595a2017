"""Benchmarks: suites, the judges, statistics and the stage that measures the policies."""
