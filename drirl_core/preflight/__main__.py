"""`python -m drirl_core.preflight`: look at a run in a process of its own, so that the caller never holds torch.

Reads a resolved configuration as JSON from standard input, and writes a JSON list of problems to standard output.
"""

import json
import sys

from drirl_core.config import from_resolved
from drirl_core.preflight.looking import find_problems
from drirl_core.project import Project


def main() -> int:
    """Write what `find_problems` finds."""
    project = Project(from_resolved(json.load(sys.stdin)))
    sys.stdout.write(json.dumps(find_problems(project)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
