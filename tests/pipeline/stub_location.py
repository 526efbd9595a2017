"""The code location with the stub stages in place of the real ones, for processes that load the code location."""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]  # this checkout, whatever is installed
os.environ["PYTHONPATH"] = str(FOLDER)  # the worker's, beside the project

import stub_stages  # noqa: E402

from pipeline import definitions  # noqa: E402
from pipeline.running import launch  # noqa: E402

stub_stages.install()
launch.WORKER = "stub_worker"
launch.RETRY_DELAY_S = 0
defs = definitions.defs
