"""The worker process with stub stages instead of the real ones."""

import sys

import stub_stages

from pipeline.running import worker

if __name__ == "__main__":
    stub_stages.install()
    sys.exit(worker.main())
