"""Directories from which tests and their child processes start."""

from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
