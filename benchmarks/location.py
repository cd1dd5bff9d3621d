"""How long Dagster's code location takes to load: `python -m benchmarks.location [--json]`, half a minute.

As Dagster does it at the start and at each reload: a fresh process imports `ssl_pipeline.definitions` and builds the repository.
Processor time, the median of five, which other work on the machine does not lengthen; the wall time is beside it. The aim is
under 5 seconds, whatever the recipes; the slowest imports show where it goes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks.race import report

AIM_SECONDS = 5.0
ROUNDS = 5
LOAD = """
import json, time
import dagster
dagster_seconds = time.process_time()
import ssl_pipeline.definitions as module
imported = time.process_time()
repository = module.defs().get_repository_def()
assets = len(repository.asset_graph.get_all_asset_keys())
took = {"imports": imported, "all": time.process_time(), "wall": time.perf_counter() - started}
print(json.dumps({"dagster alone": dagster_seconds, "assets": assets} | took))
"""


def main(as_json: bool) -> None:
    once = [load() for _ in range(ROUNDS)]
    seconds = {what: median(one[what] for one in once) for what in ("dagster alone", "imports", "all", "wall")}
    words = {
        "dagster alone": "Python, and `import dagster`",
        "imports": "and `import ssl_pipeline.definitions`",
        "all": "and every asset, check, job, sensor and schedule",
        "wall": "the same as wall time",
    }
    rows: list[dict[str, Any]] = [{"what": words[what], "seconds": value} for what, value in seconds.items()]
    rows += [
        {"what": f"modules of {name}, as -X importtime has them", "seconds": value}
        for name, value in slowest_imports().items()
    ]
    title = (
        f"loading the code location, {once[0]['assets']} assets: seconds of processor time (aim: under {AIM_SECONDS:g})"
    )
    report(title, rows, as_json)
    sys.exit(seconds["all"] >= AIM_SECONDS)


def load() -> dict[str, float]:
    script = "import time; started = time.perf_counter()\n" + LOAD
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def slowest_imports(count: int = 5) -> dict[str, float]:
    """Top-level packages by the seconds of all their modules, without those that these import."""
    script = "import ssl_pipeline.definitions as module; module.defs()"
    command = [sys.executable, "-W", "ignore", "-X", "importtime", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    own: dict[str, float] = {}
    for microseconds, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", done.stderr):
        package = name.partition(".")[0]
        own[package] = own.get(package, 0) + int(microseconds) / 1e6
    return {name: own[name] for name in sorted(own, key=own.__getitem__, reverse=True)[:count]}


if __name__ == "__main__":
    main("--json" in sys.argv)
