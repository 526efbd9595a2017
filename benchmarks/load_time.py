"""Time to load the code location, compared with `import dagster`: `python -m benchmarks.load_time`.

Fresh processes in turn, ABAB, so that a change of the machine's speed affects both. The median of the ratios is
reported.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from benchmarks.machine import write

ROUNDS = 7
PLAIN = "import dagster"
LOCATION = "import dagster, pipeline.definitions; pipeline.definitions.defs()"


def measure(code: str) -> float:
    """Return the seconds a fresh interpreter needs for `code`.

    Compiled modules are kept, as by default: installed packages such as dagster have theirs from the installation.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Measure and write benchmarks/results/load_time.json."""
    for code in (PLAIN, LOCATION):
        measure(code)  # warms the file cache and the compiled modules
    pairs = [(measure(PLAIN), measure(LOCATION)) for _ in range(ROUNDS)]
    ratios = sorted(location / plain for plain, location in pairs)
    write(
        "load_time",
        {
            "what": "seconds of a fresh process: loading all definitions against `import dagster` alone",
            "rounds": ROUNDS,
            "import_dagster_s": round(statistics.median(p for p, _ in pairs), 3),
            "load_definitions_s": round(statistics.median(d for _, d in pairs), 3),
            "ratio_median": round(statistics.median(ratios), 3),
            "ratio_min_max": [round(ratios[0], 3), round(ratios[-1], 3)],
        },
    )


if __name__ == "__main__":
    main()
