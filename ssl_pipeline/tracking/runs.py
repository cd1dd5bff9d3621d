"""MLflow runs, found by content key and never passed on as handles, so that a retry goes on in the same run."""

from __future__ import annotations

import json
import numbers
import os
import posixpath
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from ssl_pipeline import database
from ssl_pipeline.part import PipelineError, unreached
from ssl_pipeline.store import explain_disk_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

# read by MLflow when it is imported, which happens late, inside the functions that need it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

KEY = "ssl_pipeline.key"
"""The run tag that holds the content key."""

DATABASES = {"sqlite", "postgresql", "mysql", "mssql"}

T = TypeVar("T")


class Tracker:
    """The MLflow tracking server, or database, at `uri`.

    Files of experiments made here go to `artifacts` where `uri` is a database; a server has a place of its own. A user and
    password in a server's URI move to MLflow's own variables, as its errors, which end in Dagster's log, repeat the URI.
    Nothing is contacted before the first call. Every method raises PipelineError, with the URI, where MLflow is down or
    refuses.
    """

    def __init__(self, uri: str, artifacts: Path) -> None:
        self.uri = sign_in(uri)
        self.artifacts = artifacts.absolute()
        self._logged: dict[tuple[str, str], set[int]] = {}
        """Steps of each (run, metric) that MLflow holds."""

    def run(
        self,
        experiment: str,
        name: str,
        key: str,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """The id of the run under content key `key` in `experiment`: re-opened where there is one, otherwise new.

        Tags are set again; a parameter that the run has already stays as it was.
        """
        from mlflow.entities import Param, RunTag

        with self.connected() as client, self.lock("runs"):
            experiment_id = self._experiment(client, experiment)
            if found := client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1):
                run = found[0]
                client.update_run(run.info.run_id, status="RUNNING")
            else:
                run = client.create_run(experiment_id, run_name=name, tags={KEY: key})
            wanted = {legal(k): str(v)[:6000] for k, v in (params or {}).items()}
            new = [Param(k, v) for k, v in wanted.items() if k not in run.data.params]
            for some in batches(new, 100):
                client.log_batch(run.info.run_id, params=some)
            for some_tags in batches([RunTag(legal(k), str(v)[:8000]) for k, v in (tags or {}).items()], 100):
                client.log_batch(run.info.run_id, tags=some_tags)
            return run.info.run_id

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs rows such as `{"step": 10, "loss": 2.3}`; what is no number is left out.

        A point that MLflow holds already stays, so the rows may be logged again, longer after a resume, and the curve
        keeps one point a step. Within `rows` the last one of a step counts. A row's `time` (seconds since 1970) is when it was
        measured; with it, MLflow itself drops a point that arrives twice because a server was too slow to say that it has it.
        """
        from mlflow.entities import Metric

        curves: dict[str, dict[int, Metric]] = {}
        for row in rows:
            step, when = int(row["step"]), round(row.get("time", time.time()) * 1000)
            for name, value in row.items():
                if name not in ("step", "time") and isinstance(value, numbers.Real) and not isinstance(value, bool):
                    point = Metric(legal(name), float(value), when, step)
                    curves.setdefault(point.key, {})[step] = point
        with self.connected() as client:
            fresh: list[Metric] = []
            for name, points in curves.items():
                if (run_id, name) not in self._logged:
                    self._logged[run_id, name] = {m.step for m in client.get_metric_history(run_id, name)}
                there = self._logged[run_id, name]
                fresh += [point for step, point in points.items() if step not in there]
            for some in batches(fresh, 1000):
                client.log_batch(run_id, metrics=some)
                for metric in some:
                    self._logged[run_id, metric.key].add(metric.step)

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Logs single numbers, such as an evaluation's; a value that is logged already is not logged twice."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self.connected() as client:
            known = client.get_run(run_id).data.metrics
            fresh = [Metric(legal(k), float(v), now, step) for k, v in values.items() if known.get(legal(k)) != v]
            for some in batches(fresh, 1000):
                client.log_batch(run_id, metrics=some)

    def log_dataset(self, run_id: str, name: str, digest: str, source: str) -> None:
        """Records the dataset version (`<md5>.dir`, as DVC counts it) as the run's input, once."""
        from mlflow.entities import Dataset, DatasetInput

        # what MetaDataset records for a local path, built directly because MLflow guesses a source's type from its text
        dataset = Dataset(name, digest, source_type="local", source=json.dumps({"uri": source}))
        with self.connected() as client:
            client.log_inputs(run_id, [DatasetInput(dataset)])

    def log_files(self, run_id: str, files: Sequence[Path], folder: str | None = None) -> None:
        """Copies files to the run's artifacts, over files of the same name."""
        with self.connected() as client:
            for file in files:
                client.log_artifact(run_id, str(file), folder)

    def end(self, run_id: str, failed: bool = False) -> None:
        """Closes the run; `run` opens it again."""
        with self.connected() as client:
            client.set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def url(self, run_id: str) -> str:
        """The run's page as a fragment that follows the address of an MLflow UI: `#/experiments/1/runs/abc`."""
        with self.connected() as client:
            return f"#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    @contextmanager
    def connected(self) -> Iterator[MlflowClient]:
        """The MLflow client; what MLflow raises inside becomes a PipelineError."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._client
        except (MlflowException, RequestException, SQLAlchemyError) as error:
            reason = database.without_password(" ".join(str(error).split()))
            kind = unreached(reason)
            if "connection refused" in reason.lower():
                reason = "nobody answers there"
            place = f"MLflow at {database.without_password(self.uri)}"
            raise kind(f"{place}: {reason[:400]}; {cure(error)}") from error

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One process at a time: on this machine, and where a database is shared, on all that share it. Without one,
        writers on several machines need a content key of their own each."""
        folder = self.artifacts.parent
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"), database.turn(f"mlflow {name}"):
            yield

    @cached_property
    def _client(self) -> MlflowClient:
        self._reach()
        from mlflow import MlflowClient

        with self.lock("connect"):  # two processes that create a database's tables at once break each other
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        return client

    def _reach(self) -> None:
        """Asks once and raises at once, where MLflow would retry for minutes (or, with a database, for an hour)."""
        kind = urlsplit(self.uri).scheme.split("+")[0]
        if kind in ("http", "https"):
            import requests

            requests.get(self.uri, timeout=10, stream=True).close()
        elif kind in DATABASES:
            import sqlalchemy

            if kind == "sqlite" and (path := sqlalchemy.make_url(self.uri).database):
                with explain_disk_errors(Path(path)):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
            engine = sqlalchemy.create_engine(self.uri)
            try:
                sqlalchemy.inspect(engine).get_table_names()
            finally:
                engine.dispose()

    def _experiment(self, client: MlflowClient, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found and found.lifecycle_stage == "deleted":
            raise PipelineError(
                f"MLflow experiment {name!r} is deleted: bring it back with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        if found:
            return found.experiment_id
        location = self.artifacts.as_uri() if urlsplit(self.uri).scheme.split("+")[0] in DATABASES else None
        return client.create_experiment(name, artifact_location=location)


def sign_in(uri: str) -> str:
    """The URI as MLflow's client takes it. The user and password that a server's may hold move into MLflow's variables."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return database.with_driver(uri)
    for variable, said in (("USERNAME", parts.username), ("PASSWORD", parts.password)):
        if said is not None:
            os.environ[f"MLFLOW_TRACKING_{variable}"] = unquote(said)
    return database.without_password(uri)


def cure(error: Exception) -> str:
    """What to do about an error of MLflow's."""
    match getattr(error, "get_http_status_code", lambda: 0)():
        case 401:
            return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of that server"
        case 403:
            return "its administrator has to give this account MANAGE there (or to everyone, as default_permission)"
    return "start it, or set MLFLOW_TRACKING_URI (unset: a file in store/)"


def legal(name: str) -> str:
    """A name that MLflow takes on every platform: letters, digits, `_ - . /` and spaces, no empty or dotted folders."""
    return posixpath.normpath(re.sub(r"[^/\w.\- ]", "_", name)).strip("/")


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
