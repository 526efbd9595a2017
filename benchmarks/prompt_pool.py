"""The prompt pool at sizes up to a million rows, and another library's duplicates: `python -m benchmarks.prompt_pool`.

    python -m benchmarks.prompt_pool --rows 10000 30000 100000 --peers datasketch --peer-rows 100000

For each size the stage itself builds a pool of synthetic prompts (`benchmarks.synthetic_prompts`) in a fresh process.
All rows are of one category, so that nothing is left to the category router: its sentence encoder is a model, and its
time is the model's. Peers get the same prompts, as sets of the same words and letter triples, and say which of them
repeat an earlier one: `datasketch` as its documentation shows, `rensa` where it is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import write
from benchmarks.synthetic_prompts import write_prompts
from drirl_core.config import Config, ModelsConfig, PromptsConfig, SourceConfig

PERMUTATIONS = 128
"""Of the peers: their default."""
_POLL_S = 0.2


class Memory:
    """Read the memory of this process and its children, shared pages in parts (PSS), until it is told to stop."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the highest sum in bytes, or of this process alone what the system has noted, when that is more."""
        self._stop.set()
        self._thread.join()
        return max(self.peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(_POLL_S):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def pool(file: Path, folder: Path) -> dict[str, Any]:
    """Build the pool of a file of prompts and return its counts."""
    from drirl_core.graph.build import Context
    from drirl_core.project import Project
    from drirl_core.prompts.stage import build_prompt_pool
    from drirl_core.reporting import SilentReporter

    source = SourceConfig(name="synthetic", path=str(file), category="insult", licence="CC0-1.0")
    config = Config(
        models=ModelsConfig(policy="path:/none", encoder="path:/none"),
        prompts=PromptsConfig(sources=(source,)),
        root=str(folder / "store"),
    )
    out = folder / "out"
    out.mkdir()
    inputs = {"source_synthetic": file}
    shown = build_prompt_pool(Context(config, None, inputs, out, folder, Project(config).store, SilentReporter()))
    return {name: shown.get(name, 0) for name in ("read", "kept", "exact_duplicate", "near_duplicate")}


def _sets(file: Path) -> list[frozenset[str]]:
    """Return the words and letter triples of every readable prompt."""
    from drirl_core.files.reading import read_records
    from drirl_core.prompts.duplicates import shingles

    return [shingles(record.values["prompt"]) for record in read_records(file) if not record.reason]


def datasketch(file: Path, folder: Path) -> dict[str, Any]:
    """Find repeats with MinHashLSH as datasketch's documentation shows; candidates are not checked."""
    from datasketch import MinHash, MinHashLSH

    sets = _sets(file)
    index = MinHashLSH(threshold=PromptsConfig().near_duplicate, num_perm=PERMUTATIONS)
    kept = 0
    for number, one in enumerate(sets):
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([text.encode("utf-8", "surrogatepass") for text in one])
        if not index.query(sketch):
            index.insert(number, sketch, check_duplication=False)
            kept += 1
    return {"read": len(sets), "kept": kept}


def rensa(file: Path, folder: Path) -> dict[str, Any]:
    """Find repeats with the deduplicator of rensa, a library in Rust; candidates are not checked."""
    from rensa import RMinHash, RMinHashDeduplicator

    sets = _sets(file)
    found = RMinHashDeduplicator(PromptsConfig().near_duplicate, PERMUTATIONS, True)
    kept = 0
    for number, one in enumerate(sets):
        sketch = RMinHash(PERMUTATIONS, 42)
        sketch.update(list(one))
        kept += found.add(str(number), sketch)
    return {"read": len(sets), "kept": kept}


WORK: dict[str, Callable[[Path, Path], dict[str, Any]]] = {"pool": pool, "datasketch": datasketch, "rensa": rensa}


def measure(what: str, file: Path) -> dict[str, Any]:
    """Do one piece of work in a fresh process and return its result with seconds, memory and the load beside it."""
    before = os.getloadavg()[0]
    command = [sys.executable, "-m", "benchmarks.prompt_pool", "--work", what, "--file", str(file)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    took = time.perf_counter() - started
    return {**json.loads(done.stdout), "seconds": round(took, 1), "load_before": round(before, 1)}


def _cpu_seconds() -> float:
    """Return the processor time of this process and its children, which other work on the machine changes less."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Measure and write benchmarks/results/prompt_pool.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--peers", nargs="*", choices=[name for name in WORK if name != "pool"], default=["datasketch"])
    parser.add_argument("--peer-rows", type=int, default=100_000, help="peers are left out of larger sizes")
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        memory = Memory()
        with tempfile.TemporaryDirectory() as folder:
            found = WORK[options.work](options.file, Path(folder))
        peak = memory.stop()
        print(json.dumps({**found, "peak_gib": round(peak / 2**30, 2), "cpu_seconds": round(_cpu_seconds(), 1)}))
        return
    sizes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            file = Path(folder) / f"{rows}.jsonl"
            write_prompts(file, rows)
            size: dict[str, Any] = {"rows": rows, "pool": measure("pool", file)}
            for peer in options.peers if rows <= options.peer_rows else ():
                size[peer] = measure(peer, file)
                for unit in ("seconds", "cpu_seconds"):
                    size[f"{peer}_over_pool_{unit}"] = round(size[peer][unit] / size["pool"][unit], 2)
            sizes.append(size)
            print(json.dumps(size), flush=True)
            file.unlink()
    write("prompt_pool", {"what": "time and peak memory of fresh processes", "sizes": sizes, **_slopes(sizes)})


def _slopes(sizes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the exponents of the pool's times from the smallest to the largest size: 1 is linear."""
    first, last = sizes[0], sizes[-1]
    if first["rows"] == last["rows"]:
        return {}
    return {
        f"exponent_{unit}": round(
            math.log(last["pool"][unit] / first["pool"][unit]) / math.log(last["rows"] / first["rows"]), 3
        )
        for unit in ("seconds", "cpu_seconds")
    }


if __name__ == "__main__":
    main()
