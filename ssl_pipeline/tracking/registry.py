"""The model registry: one version a content key.

A version is a logged model in MLflow's native pt2 format (torch.export, preprocessing inside), so that whoever loads it
needs mlflow and torch and nothing of this package; beside it, in its folder `extra_files`, lie the weights for
fine-tuning, as safetensors.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ssl_pipeline.part import PipelineError, did_you_mean
from ssl_pipeline.tracking import model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

    from ssl_pipeline.tracking.runs import Tracker

KEY = "content_key"
T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """A registered version of a model."""

    name: str
    version: int
    tags: dict[str, str]
    run_id: str


def register(
    tracker: Tracker,
    run_id: str,
    name: str,
    key: str,
    encoder: nn.Module,
    files: list[Path],
    tags: dict[str, str],
    description: str,
) -> int:
    """Registers `encoder` as a new version of `name` and returns its number; a version that has this content key already is
    returned as it is.

    Once a key under retries and under several processes of one machine. Raises PipelineError where the exported model's
    output differs from the encoder's. A description over 5,000 characters is cut: databases hold no more.
    """
    with tracker.connected() as client, tracker.lock(f"model-{name}"):
        known = versions(tracker, name)
        version = next((v.version for v in known if v.tags.get(KEY) == key), None)
        if version is None:
            model_id = model.log(client, run_id, name, encoder, files)
            version = _add_version(tracker, client, name, model_id, run_id, tags | {KEY: key}, description[:5000])
        return version


def champion(tracker: Tracker, name: str) -> Version | None:
    """The version with the alias `champion`, if there is one."""
    with tracker.connected() as client:
        version = aliases(client, name).get("champion")
        return _version(client.get_model_version(name, str(version))) if version else None


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Where the aliases of a model stand; empty where there is no such model."""
    model = _if_there(client.get_registered_model, name)
    # a database gives an alias's version as a number, a server as text
    return {alias: int(version) for alias, version in model.aliases.items()} if model else {}


def versions(tracker: Tracker, name: str | None = None) -> list[Version]:
    """All versions of `name`, or of every model, the oldest first; empty where there is no such model."""
    with tracker.connected() as client:
        found, token = [], None
        while True:
            page = client.search_model_versions(f"name = '{name}'" if name else None, page_token=token)
            found += [_version(v) for v in page]
            if not (token := page.token):
                return sorted(found, key=lambda v: v.version)


def load(tracker: Tracker, model_uri: str) -> tuple[nn.Module, dict[str, Any]]:
    """A registered model by `name` (its champion), `models:/name@alias` or `models:/name/3`, ready to call on samples on the CPU,
    and what it takes and gives: `shape` and `dtype` of a sample, dim, name, version. Never unpickles.

    Raises PipelineError, with near names, where there is no such model.
    """
    with downloaded(tracker, model_uri) as (found, path):
        module, takes = model.read(path)
    return module, takes | {"name": found.name, "version": found.version}


@contextmanager
def downloaded(tracker: Tracker, model_uri: str) -> Iterator[tuple[Version, Path]]:
    """A registered version's folder on disk: the model, and in `extra_files` what was registered beside it. A name alone means
    the champion.

    Raises PipelineError, with near names, where there is no such model.
    """
    import mlflow

    with tracker.connected() as client, tempfile.TemporaryDirectory() as folder:
        found = _find(client, full(model_uri))
        source = client.get_model_version_download_uri(found.name, str(found.version))
        yield found, Path(mlflow.artifacts.download_artifacts(source, dst_path=folder, tracking_uri=tracker.uri))


def full(uri: str) -> str:
    """`cats` is `models:/cats@champion`, and `cats@previous` what it says."""
    return uri if "/" in uri else f"models:/{uri}" + ("" if "@" in uri else "@champion")


def _find(client: MlflowClient, uri: str) -> Version:
    parts = re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", uri)
    if not parts:
        raise PipelineError(f"{uri!r} names no model: write NAME, models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = parts.groups()
    find = client.get_model_version_by_alias if alias else client.get_model_version
    if found := _if_there(find, name, alias or number):
        return _version(found)
    if model := _if_there(client.get_registered_model, name):
        there = [f"models:/{name}@{one}" for one in model.aliases]
        there += [f"models:/{name}/{v.version}" for v in client.search_model_versions(f"name = '{name}'")]
        hint = did_you_mean(uri, there) or f"; there are {', '.join(there[:5])}"
        raise PipelineError(f"model {uri!r} is not registered{hint}")
    names = [one.name for one in client.search_registered_models(max_results=1000)]
    hint = did_you_mean(name, names) or (f"; there are {', '.join(names[:5])}" if names else "; register one first")
    raise PipelineError(f"model {name!r} is not registered{hint}")


def _if_there(find: Callable[..., T], *what: str) -> T | None:
    from mlflow.exceptions import MlflowException

    try:
        return find(*what)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _version(version: ModelVersion) -> Version:
    return Version(version.name, int(version.version), dict(version.tags), version.run_id or "")


def _add_version(
    tracker: Tracker,
    client: MlflowClient,
    name: str,
    model_id: str,
    run_id: str,
    tags: dict[str, str],
    description: str,
) -> int:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with _process_wide(tracker.uri):
        created = client.create_model_version(
            name, f"models:/{model_id}", run_id, tags=tags, description=description, model_id=model_id
        )
    # what links the logged model's page with the version's
    link = json.dumps([{"name": name, "version": created.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return int(created.version)


@contextmanager
def _process_wide(uri: str) -> Iterator[None]:
    """MLflow's database store looks up a version's source at the process-wide URI, not at the client's."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)  # changes the environment too, and with it where Project would track
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # back to the environment
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before
