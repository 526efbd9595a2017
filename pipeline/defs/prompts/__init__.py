"""The prompt pool and the files it is made from."""
