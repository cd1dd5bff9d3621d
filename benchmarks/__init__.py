"""Races against peers and against the hardware: `python -m benchmarks.NAME`, on a quiet machine. Never part of the tests."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin between steps take cores from loader workers
