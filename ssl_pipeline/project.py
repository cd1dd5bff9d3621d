"""Where a project keeps what: found from the current folder, so that nobody has to set DAGSTER_HOME."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssl_pipeline import database
from ssl_pipeline.store import Store


@dataclass(frozen=True)
class Project:
    """A folder with a `dagster.yaml`: the recipes' home, with `data/` (DVC) and `store/` (everything derived) in it."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """`$DAGSTER_HOME` where it is set, else the nearest folder at or above `start` (default: here) that has a
        `dagster.yaml`, else the checkout that this package runs from, else the current folder."""
        if home := os.environ.get("DAGSTER_HOME"):
            return cls(Path(home).resolve())
        here = (start or Path.cwd()).resolve()
        checkout = Path(__file__).resolve().parent.parent
        for folder in (here, *here.parents, checkout):
            if (folder / "dagster.yaml").is_file():
                return cls(folder)
        return cls(here)

    @cached_property
    def store(self) -> Store:
        return Store(Path(os.environ.get("SSL_PIPELINE_STORE", self.root / "store")))

    @property
    def data(self) -> Path:
        """The folder that DVC versions; one sub-folder a dataset."""
        return self.root / "data"

    @property
    def tracking_uri(self) -> str:
        """`$MLFLOW_TRACKING_URI`, else a SQLite file inside the store."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.store.root / 'mlflow' / 'mlflow.db'}"

    @property
    def has_tracking(self) -> bool:
        """Whether there may be runs: a SQLite file is made by the first one, and not by asking."""
        path = self.tracking_uri.removeprefix("sqlite:///")
        return path == self.tracking_uri or Path(path).exists()

    @property
    def tracking_place(self) -> str:
        """The same for people and records: without the user and password that it may hold."""
        return database.without_password(self.tracking_uri)

    @property
    def tracks_on_a_server(self) -> bool:
        return self.tracking_uri.startswith(("http://", "https://"))

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps files when the tracking URI is a database."""
        return self.store.root / "mlflow" / "artifacts"
