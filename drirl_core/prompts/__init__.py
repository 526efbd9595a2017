"""Prompts of all sources: read, cleaned, routed to a category, free of duplicates and of benchmark prompts."""
