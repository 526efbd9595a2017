"""`python -m drirl_core.preflight`: look at a run in a process of its own, so that the caller never holds torch.

Reads a resolved configuration as JSON from standard input, and writes a JSON list of problems to standard output. With
the argument `options` it looks at TRL's options and optional packages alone, not at models and prompts.
"""

import json
import sys

from drirl_core.config import from_resolved
from drirl_core.models.packages import package_problems
from drirl_core.policy.options import option_problems
from drirl_core.preflight.looking import OPTIONS, find_problems
from drirl_core.project import Project


def main() -> int:
    """Write what `find_problems` finds, or the part of it that is asked for."""
    config = from_resolved(json.load(sys.stdin))
    if OPTIONS in sys.argv[1:]:
        found = [*option_problems(config), *package_problems(config)]
    else:
        found = find_problems(Project(config))
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
