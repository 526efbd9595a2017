"""Shadow reward models, one a category."""
