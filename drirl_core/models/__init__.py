"""Models: references, weights, digests, embeddings and sampling; the only package that loads weights."""
