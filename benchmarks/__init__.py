"""Races against peers and against the hardware: `python -m benchmarks.NAME`, on a quiet machine. Never part of the tests, but for
`published`, which races nobody."""

import os

# all cores to whoever's turn it is (a training process by itself takes half of them)
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
