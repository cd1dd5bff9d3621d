"""A month in the life of a pipeline: `python -m benchmarks.month [FOLDER]`.

Seven batches of real handwritten digits reach a folder, one of them drifted, one corrupt, one a duplicate and one too small. The
sensors of Dagster look at it, on a clock that is driven, and what they ask for is run. The table says which batch led to which run,
version and alias.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ssl_pipeline import tracking
from ssl_pipeline.ingest import demo_image
from ssl_pipeline.orchestration import project_definitions, sensors
from ssl_pipeline.orchestration.assets import REASON
from ssl_pipeline.orchestration.failures import what_failed
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe
from ssl_pipeline.record import open_tracker
from ssl_pipeline.report.moves import moves_table

START = datetime(2026, 11, 2, 8, tzinfo=UTC)
RECIPE = {
    "name": "post", "dataset": "letters_in",
    "encoder": {"backbone": "resnet18", "image_size": 28, "options": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}},
    "pretext": {"task": "simclr", "views": {"min_scale": 0.5, "flip": False, "rotate_degrees": 20, "color": 0.5}},
    "pretrain": {"epochs": 8, "batch_size": 64, "learning_rate": 0.004, "warmup_epochs": 0.5, "device": "cpu"},
    "evaluations": [{"kind": "classification", "shots": [10, "all"], "supervised_steps": 0, "draws": 3}],
    "promote": {"minimum": 0.5, "worse_by": 0.03},
    "retrain": {
        "on_new_data": {"minimum_samples": 100, "settle_seconds": 600}, "on_drift": {"p_value": 0.01},
        "warm_start": {"replay": 0.5, "compare": False},
    },
    "embeddings": True,
}  # fmt: skip


@dataclass
class Batch:
    """Files that arrive, and what became of them."""

    day: int
    what: str
    write: Callable[[Path], None]
    seen: list[str] = field(default_factory=list)


def batches(images: list[np.ndarray], labels: list[str | None]) -> list[Batch]:
    """In order of arrival."""

    def some(
        first: int, last: int, change: Callable[[np.ndarray], np.ndarray] = lambda x: x, name: str = ""
    ) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            for i in range(first, last):
                target = folder / str(labels[i])
                target.mkdir(parents=True, exist_ok=True)
                Image.fromarray(change(images[i])).save(target / f"{name or 'scan'}{i:05d}.png")

        return write

    def corrupt(folder: Path) -> None:
        some(2300, 2700, name="broken")(folder)
        for file in folder.rglob("broken*.png"):
            file.write_bytes(file.read_bytes()[:60])

    def repaired(folder: Path) -> None:
        some(2300, 2700, name="broken")(folder)

    return [
        Batch(0, "the first 1,500 digits", some(0, 1500)),
        Batch(3, "400 new ones", some(1500, 1900)),
        Batch(7, "duplicate: 300 of them again, by other names", some(0, 300, name="again")),
        Batch(10, "too small: 20 new ones", some(1900, 1920)),
        Batch(14, "corrupt: 400 files cut off", corrupt),
        Batch(17, "the same 400 files, whole", repaired),
        Batch(21, "drifted: 60 white-on-black turned round", some(2700, 2760, lambda x: 255 - x)),
        Batch(26, "400 new ones", some(2800, 3200)),
    ]


class Month:
    """The project, its clock, and what runs."""

    def __init__(self, root: Path, recipe: dict[str, Any]) -> None:
        self.project, self.source, self.name = Project(root), root / "incoming", recipe["name"]
        self.source.mkdir()
        source = {"kind": "image_folder", "path": str(self.source)}
        dataset = Dataset.model_validate({"name": recipe["dataset"], "source": source, "split": {"test": 0.3}})
        self.definitions = project_definitions.definitions([dataset], [Recipe.model_validate(recipe)])
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursors: dict[str, str | None] = {}
        self.keys: set[str] = set()
        self.clock, self.why_not = START, ""
        sensors.now = lambda: self.clock.timestamp()

    def run(self, job: str, reason: str, batch: Batch) -> None:
        done = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, tags={REASON: reason}, raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )  # fmt: skip
        failed = [f"{what}: {why}" for what, why in what_failed(done.all_events).items()]
        batch.seen.append(f"{job}: {reason}" + (f" -> FAILED: {failed[0]}" if failed else ""))

    def tick(self, batch: Batch) -> bool:
        """All sensors once; whether anything ran."""
        ran = False
        for sensor in self.definitions.sensors or []:
            if sensor.name in ("failures", "killed_runs"):
                continue
            context = dg.build_sensor_context(
                instance=self.instance, cursor=self.cursors.get(sensor.name), definitions=self.definitions
            )
            answer = sensor.evaluate_tick(context)
            self.cursors[sensor.name] = answer.cursor
            for asked in answer.run_requests or []:
                if asked.run_key in self.keys:
                    continue
                if asked.run_key:
                    self.keys.add(asked.run_key)
                self.run(asked.job_name or sensor.job_name, asked.tags[REASON], batch)
                ran = True
            if answer.skip_message and sensor.name.endswith("retrain_when_due"):
                self.why_not = answer.skip_message
        return ran

    def day(self, batch: Batch) -> None:
        """The batch arrives; the sensors look every few minutes until nothing is left to do. The first time a person starts it."""
        self.clock = START + timedelta(days=batch.day)
        batch.write(self.source)
        if not batch.day:
            self.run(self.name, "the first run, by hand", batch)
        self.tick(batch)
        self.clock += timedelta(minutes=11)  # it has settled
        while self.tick(batch):
            self.clock += timedelta(minutes=1)
        if not any(line.startswith(f"{self.name}:") for line in batch.seen):
            batch.seen.append(f"no training: {self.why_not}")


def live(folder: Path, recipe: dict[str, Any]) -> tuple[Month, list[tuple[Batch, int | None, int | None]]]:
    """The month, and each batch with the champion before and after it."""
    os.environ["DAGSTER_HOME"] = str(folder)
    (folder / "dagster.yaml").touch()
    items = list(demo_image.read("mnist_5k").items)
    order = np.random.default_rng(0).permutation(len(items))
    images = [np.asarray(Image.open(BytesIO(items[i].load()))) for i in order]
    month, lived = Month(folder, recipe), []
    tracker = open_tracker(month.project)

    def champion() -> int | None:
        found = tracking.champion(tracker, recipe["name"])
        return found.version if found else None

    for batch in batches(images, [str(items[i].label) for i in order]):
        before = champion()
        month.day(batch)
        lived.append((batch, before, champion()))
    return month, lived


def main(folder: Path) -> None:
    month, lived = live(folder, RECIPE)
    table = Table("day", "batch", "what happened", "champion before", "champion after")
    for batch, *versions in lived:
        table.add_row(
            str(batch.day),
            batch.what,
            "\n".join(batch.seen),
            *("none" if v is None else f"version {v}" for v in versions),
        )
    console = Console(width=160)
    console.print(table, moves_table(tracking.history(open_tracker(month.project), RECIPE["name"])))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
