"""Write the documentation that is made from the code: `python -m drirl_core.reference [DIRECTORY of the project]`."""

from __future__ import annotations

import sys
from pathlib import Path

from drirl_core.reference.pages import pages

if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, text in pages(root).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
