"""Where steps run, and what heavy ones ask of a machine."""
