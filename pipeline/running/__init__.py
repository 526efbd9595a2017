"""One run, from the command to the child process that does the work."""
