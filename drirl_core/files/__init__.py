"""Files that users give, read row by row: one strict reader for prompts, demonstrations, dropped files and suites."""

READER = "2"
"""Raised when files that were read before are read differently: what is made from files of users is then stale."""
