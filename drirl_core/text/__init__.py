"""Texts: Chain-of-Draft, sentences and clauses, words, quality."""
