"""What concerns all assets at once."""
