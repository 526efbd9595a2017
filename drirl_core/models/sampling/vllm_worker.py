"""The process that holds a vLLM engine: prompts as token ids come in, sampled token ids go out, a JSON object per line.

It runs as a file, `python -P vllm_worker.py`, and imports vLLM and the standard library alone, so that the engine may
live in an environment of its own: vLLM pins other versions of many packages than this project. In a process of its own
it also changes no variable, thread or logger of the step that asks, and all its memory is free when it ends.

The first line it reads says which engine to start; the first that it writes is `ready` or `error`. Then each line with
`prompts` and `parameters` is answered by one with `tokens` and `log_probs`, or `error`.

It ends with its input, also in the middle of a request and when the step that asked was killed. It must be started as
the first process of a session of its own, because it ends all processes of that session: vLLM starts two more, which
would otherwise never end.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from typing import IO, Any

_GRACE_S = 10.0


def main() -> None:
    """Serve requests of the standard input until it ends."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not get between the answers
            _serve(lines, answers)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for the others of the session
        _end_session(signal.SIGTERM)


def _read(lines: queue.SimpleQueue[str | None]) -> None:
    """Pass lines on; when there are no more, do not wait long for a request that nobody waits for."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    time.sleep(_GRACE_S)
    _end_session(signal.SIGKILL)


def _end_session(number: int) -> None:
    if os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), number)


def _serve(lines: queue.SimpleQueue[str | None], answers: IO[str]) -> None:
    engine = None
    while (line := lines.get()) is not None:
        try:
            if engine is None:
                engine, answer = _started(json.loads(line))
            else:
                answer = _sampled(engine, json.loads(line))
        except Exception as error:
            _write(answers, {"error": f"{type(error).__name__}: {error}"})
            raise  # the traceback goes to the standard error
        _write(answers, answer)


def _write(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _started(asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Start the engine; `engine` holds its arguments, `on_cpu` and `on_gpu` those of one kind of machine."""
    import vllm
    from vllm.platforms import current_platform

    of_machine = asked["on_cpu"] if current_platform.is_cpu() else asked["on_gpu"]
    engine = vllm.LLM(**asked["engine"], **of_machine)
    return engine, {
        "ready": {
            "version": vllm.__version__,
            "device": current_platform.device_type,
            "context": engine.model_config.max_model_len,
        }
    }


def _sampled(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": tokens} for tokens in asked["prompts"]]
    outputs = engine.generate(prompts, [SamplingParams(**one) for one in asked["parameters"]], use_tqdm=False)
    first = [output.outputs[0] for output in outputs]
    return {"tokens": [list(one.token_ids) for one in first], "log_probs": [one.cumulative_logprob for one in first]}


if __name__ == "__main__":
    main()
