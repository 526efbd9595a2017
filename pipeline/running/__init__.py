"""One run, from the command to the worker process that does the computation."""
