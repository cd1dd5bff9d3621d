"""Requests a second and latency of a served model: `python -m benchmarks.serving [--json]`, two minutes.

The encoder of the demo's digits with fresh weights, registered in a temporary project and served by MLflow with one worker:
as it is registered, for arrays; and with `served`, for PNG files. Each cell is a few seconds of clients that ask again as soon
as they are answered, through connections that stay open.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

import ssl_pipeline
from benchmarks.race import report
from ssl_pipeline import tracking
from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.orchestration.model_server import command
from ssl_pipeline.orchestration.servers import Server, running
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import load
from ssl_pipeline.tracking.served import served

SECONDS, PORT = 4, 5011
CLIENTS, BATCHES = (1, 8), (1, 32)
NAME = "digits_simclr"
DEFS = Path(ssl_pipeline.__file__).parent / "defs"


def main(as_json: bool) -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as scratch:
        project = Project(Path(scratch))
        register(project)
        pixels = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 1, 28, 28), np.uint8)
        files = [base64.b64encode(png(image[0])).decode() for image in pixels]
        served(project, f"models:/{NAME}@champion", Path(scratch, "files"))
        forms = {
            "arrays": (f"models:/{NAME}@champion", lambda batch: {"inputs": pixels[:batch].tolist()}),
            "PNG files": (
                str(Path(scratch, "files")),
                lambda batch: {"dataframe_split": {"columns": ["image"], "data": [[file] for file in files[:batch]]}},
            ),
        }
        rows = []
        for form, (model, body) in forms.items():
            with answering(project, model) as url:
                for clients in CLIENTS:
                    for batch in BATCHES:
                        seconds = asked(url, json.dumps(body(batch)).encode(), clients)
                        rows.append({"form": form, "clients": clients, "batch": batch} | measured(seconds, batch))
                        print(f"{form}, {clients} clients, batches of {batch}", file=sys.stderr, flush=True)
    report(f"one worker of MLflow's server, {SECONDS} seconds a row", rows, as_json)


def register(project: Project) -> None:
    settings = load(DEFS / NAME / "defs.yaml")[1][0].encoder
    facts = {"channels": 1, "mean": [0.13], "std": [0.31]}
    torch.manual_seed(0)
    encoder = encoders.build(settings, facts).eval()
    tracker = tracking.Tracker(project.tracking_uri, project.artifacts)
    with tempfile.TemporaryDirectory() as folder:
        encoders.save(encoder, settings, facts, Path(folder))
        run_id = tracker.run("digits", NAME, "fresh")
        tracking.register(tracker, run_id, NAME, "fresh", encoder, sorted(Path(folder).iterdir()), {}, "fresh weights")
    tracking.promote(tracker, NAME, 1, "the only one")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def answering(project: Project, model: str) -> Iterator[str]:
    line, environment = command(model, PORT, "127.0.0.1")
    url = f"http://127.0.0.1:{PORT}"
    environment["MLFLOW_TRACKING_URI"] = project.tracking_uri
    server = Server(
        "serving", f"{url}/ping", project.store.root / "logs" / "serving.log", line, environment, project.root
    )
    with running([server]):
        while not server.answers():
            if server.is_dead():
                sys.exit(server.log.read_text())
            time.sleep(0.2)
        yield f"{url}/invocations"


def asked(url: str, body: bytes, clients: int) -> list[float]:
    """Seconds that each request took, a warm-up left out."""

    def client(until: float) -> list[float]:
        took = []
        with httpx.Client(timeout=60, headers={"content-type": "application/json"}) as session:
            while time.perf_counter() < until:
                begun = time.perf_counter()
                session.post(url, content=body).raise_for_status()
                took.append(time.perf_counter() - begun)
        return took

    client(time.perf_counter() + 0.5)
    with ThreadPoolExecutor(clients) as pool:
        return [one for took in pool.map(client, [time.perf_counter() + SECONDS] * clients) for one in took]


def measured(seconds: list[float], batch: int) -> dict[str, float]:
    milliseconds = 1000 * np.percentile(seconds, (50, 95, 99))
    rate = len(seconds) / SECONDS
    quantiles = dict(zip(("p50_ms", "p95_ms", "p99_ms"), milliseconds.round(2).tolist(), strict=True))
    return {"requests_per_second": round(rate, 1), "samples_per_second": round(rate * batch, 1)} | quantiles


if __name__ == "__main__":
    main("--json" in sys.argv)
