"""Benchmarks: suites, the rules judge, statistics and the stage that measures the policies."""
