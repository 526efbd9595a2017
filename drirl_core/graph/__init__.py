"""What is stale, why and at what cost, beside what builds it."""
