"""What a reward model reads: one file per backbone, behind one interface."""
