"""An encoder as a logged model of MLflow, in its native pt2 format: exported, checked against the encoder, uploaded."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_pipeline.part import PipelineError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import nn

    from ssl_pipeline.export.deployed import DeployedEncoder


def log(client: MlflowClient, run_id: str, name: str, encoder: nn.Module, files: list[Path]) -> str:
    """Logs the encoder with preprocessing inside, and `files` in its folder `extra_files`; returns the model's id.

    The model carries the run's parameters and the last value of each of its metrics. Raises PipelineError where the
    exported model's output differs from the encoder's; what fails is marked so.
    """
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    from ssl_pipeline.export.deployed import DeployedEncoder

    deployed = DeployedEncoder(encoder)
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id,
        name,
        source_run_id=run_id,
        params=run.data.params,
        model_type="encoder",
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model")
            save(
                deployed,
                path,
                files,
                Model(
                    logged.artifact_location,
                    run_id,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                ),
            )
            check_equal(deployed, read(path)[0], name)
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    last = [
        max(client.get_metric_history(run_id, name), key=lambda m: (m.step, m.timestamp)) for name in run.data.metrics
    ]
    metrics = [Metric(m.key, m.value, m.timestamp, m.step, model_id=logged.model_id) for m in last]
    client.log_batch(run_id, metrics=metrics[:1000])
    return logged.model_id


def save(deployed: DeployedEncoder, path: Path, files: list[Path], record: Any) -> None:
    """Writes MLflow's model folder: `data/model.pt2`, signature, example and `extra_files`. `record` is its MLmodel."""
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # two samples: torch.export takes the size of a batch of one for a constant
    example = deployed.example(2).numpy()
    takes = Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))])
    gives = Schema([TensorSpec(np.dtype("float32"), (-1, deployed.dim))])
    mlflow.pytorch.save_model(
        deployed,
        path,
        mlflow_model=record,
        signature=ModelSignature(takes, gives),
        input_example=example,
        extra_files=[str(f) for f in files],
        # named, because MLflow would find them out by running the model in a process of its own
        pip_requirements=[f"{p.__name__}=={p.__version__.split('+')[0]}" for p in (mlflow, torch, np)],
        serialization_format="pt2",
    )
    # An exported model stays on its device; where there is CUDA, MLflow would ask for it and then refuse the model.
    record.flavors["python_function"]["config"]["device"] = "cpu"
    record.save(str(path / "MLmodel"))


def check_equal(deployed: DeployedEncoder, exported: nn.Module, name: str) -> None:
    """Raises PipelineError unless the exported model gives the encoder's embeddings, for one sample and for several."""
    import torch

    for batch in (1, 3):
        given = deployed.example(batch)
        try:
            expected, answered = deployed(given), exported(given)
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise PipelineError(
                f"model {name!r}: exported, it fails on a batch of {batch} ({reason}); use another encoder.backbone"
            ) from error
        if not torch.allclose(expected, answered, rtol=1e-4, atol=1e-5):
            difference = (expected - answered).abs().max().item()
            raise PipelineError(
                f"model {name!r}: exported, its embeddings differ by {difference:.1e}; use another encoder.backbone"
            )


def read(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in a folder that `save` wrote, on the CPU, and the `shape` and `dtype` of a sample that it takes, and `dim`.

    A pt2 archive may hold pickles. MLflow is told to refuse it unless they are tensors that torch reads with
    `weights_only` (the export's example input is such a one, and may not be left out); this raises PipelineError then.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    switch = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
    before = os.environ.get(switch)
    os.environ[switch] = "false"
    try:
        module = mlflow.pytorch.load_model(str(path))
        signature = Model.load(str(path)).signature
        takes = signature.inputs.inputs[0]
        shape, dtype = list(takes.shape[1:]), takes.type.name
        dim = signature.outputs.inputs[0].shape[1]
    except (MlflowException, AttributeError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PipelineError(
            f"model in {path} was not registered by ssl_pipeline or is damaged ({reason}); register it again"
        ) from error
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before
    return module, {"shape": shape, "dtype": dtype, "dim": dim}


def recorded(path: Path) -> dict[str, Any]:
    """What `encoder.json` beside a registered model says: `encoder`, its settings, and `facts`, what it knows of its data."""
    try:
        return json.loads((path / "extra_files" / "encoder.json").read_text())
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"model in {path} was not registered by ssl_pipeline or is damaged ({error}); register it again"
        ) from error
