"""Models: references, weights, digests, embeddings and sampling; the only room that loads weights."""
