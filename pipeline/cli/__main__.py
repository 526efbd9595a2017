"""`python -m pipeline.cli` is `drirl`."""

from pipeline.cli.main import main

main()
