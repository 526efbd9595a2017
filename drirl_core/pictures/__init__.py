"""What the pictures of all stages share: the colours."""
