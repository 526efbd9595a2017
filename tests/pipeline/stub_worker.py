"""The worker with the stub stages in place of the real ones; started like the real one."""

import sys

import stub_stages

from pipeline.running import worker

if __name__ == "__main__":
    stub_stages.install()
    sys.exit(worker.main())
