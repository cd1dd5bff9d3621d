"""The recipe: the only configuration there is. Everything is checked here, when it is loaded, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from ssl_pipeline.encoders.any_encoder import AnyEncoder
from ssl_pipeline.encoders.settings import ImageEncoder
from ssl_pipeline.evaluate.any_evaluation import EVALUATIONS, AnyEvaluation
from ssl_pipeline.evaluate.settings import EvaluationPart
from ssl_pipeline.ingest.sources import Source
from ssl_pipeline.part import Document, Part, PipelineError
from ssl_pipeline.pretext import TASKS, PretextTask, names_of

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
"""Lower-case letters, digits and underscores: it becomes an asset key, a folder and a registered model's name."""

if TYPE_CHECKING:
    Task = PretextTask
else:
    Task = Annotated[Union[TASKS], Field(discriminator="task")]  # noqa: UP007


class Split(Part):
    """How samples are spread over train, validation and test: by a hash of content or group, so that a sample never
    changes sides when data is added. Ignored where the source names splits itself."""

    validation: float = Field(0.1, gt=0, lt=0.5)
    """Fraction held out for choices (regularisation, the pretext task's own curve)."""
    test: float = Field(0.2, gt=0, lt=0.8)
    """Fraction that only the final numbers see."""

    @model_validator(mode="after")
    def leaves_training_data(self) -> Self:
        if self.validation + self.test > 0.9:
            raise ValueError(f"validation {self.validation} + test {self.test} leave less than 10% to train on")
        return self


class Dataset(Document):
    """A source of samples and how it becomes a versioned dataset. Several recipes may share one."""

    name: Name
    description: str = ""
    source: Source
    split: Split = Split()
    max_quarantined: float = Field(0.1, ge=0, le=1)
    """Largest fraction of the source's files that may be unusable before ingestion stops."""
    version: str | None = Field(None, pattern=r"^[0-9a-f]{32}\.dir$")
    """A digest that DVC holds: use that version of the dataset instead of ingesting the source."""


class Pretrain(Part):
    """The training loop's settings."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(256, ge=2)
    """Source samples a step; each becomes as many views as the pretext task makes."""
    accumulate: int = Field(1, ge=1)
    """Split each batch into this many pieces and add up their gradients, for less memory."""
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_epochs: float = Field(1, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 autocast where the hardware computes it natively."""
    device: str = "auto"
    """auto is CUDA where there is one, else the CPU; or a torch device name."""
    seed: int = Field(0, ge=0)
    processes: int = Field(1, ge=1)
    """Share each batch among this many processes, one a GPU; the result is one process's up to rounding."""
    shard: bool = False
    """Spread weights, gradients and optimizer state over the processes (FSDP2), for models that fill a GPU."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile the step; auto does where the run is long enough to win its minute back."""
    log_every: int = Field(10, ge=1)
    """Steps between two rows of the training curves."""
    checkpoint_seconds: float = Field(30, ge=0)
    """Least time between two checkpoints; a hundred times what one takes, up to a quarter of an hour, where that is more; 0
    is after every step. No part of what decides the result."""

    @model_validator(mode="before")
    @classmethod
    def default_warmup_fits(cls, said: Any) -> Any:
        return {"warmup_epochs": 0.1} | said if isinstance(said, dict) and said.get("epochs") == 1 else said

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be shorter than epochs {self.epochs}: lower it to {self.epochs / 10:g}"
            )
        pieces = self.accumulate * self.processes
        if self.batch_size % pieces:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate} times processes "
                f"{self.processes}: use {max(1, round(self.batch_size / pieces)) * pieces}"
            )
        if self.shard and self.processes == 1:
            raise ValueError("shard spreads a model over processes: set processes to the number of GPUs")
        return self


class Promote(Part):
    """The policy by which a model is registered and becomes the champion."""

    metric: str = ""
    """`<evaluation>/<probe>/<metric>/<shots>`: what is compared; by default the first evaluation's leading one. Without labels,
    `features/rankme` or `features/lidar`."""
    minimum: float = Field(0.0, ge=0)
    """Floor of this metric, under which nothing is registered."""
    floors: dict[str, float] = {}
    """Floors of further metrics, by name."""
    worse_by: float = Field(0.02, ge=0)
    """How far the 95% interval of the difference to the champion, on the same test samples, may reach below 0: the new one is no
    worse by more than that. 0 asks for proof that it is better. Of measures without labels, a share of the champion's value."""
    approval: Literal["automatic", "manual"] = "automatic"
    """manual: what passes becomes the challenger, and `ssl-pipeline promote` makes it the champion."""

    @property
    def evaluation(self) -> str:
        """The kind of evaluation that measures it."""
        return self.metric.split("/")[0]

    @property
    def label_free(self) -> bool:
        return self.metric in LABEL_FREE

    def least(self) -> dict[str, float]:
        """Every floor."""
        return {self.metric: self.minimum} | self.floors


LABEL_FREE = ("features/rankme", "features/lidar")
"""Measures of the stage `features` that can be compared with a champion's: higher is better (Garrido et al. 2023; Thilak et al.
2024)."""


class NewData(Part):
    """Retraining when the source holds enough that is new."""

    minimum_samples: int = Field(1, ge=1)
    """Fewest samples that the trained encoder's data did not have."""
    settle_seconds: float = Field(60, ge=0)
    """How long the source must have stayed as it is: an upload that is still going on is not looked at."""


class Drift(Part):
    """Retraining when new data is told apart from what was trained on."""

    p_value: float = Field(0.01, gt=0, lt=1)
    """Of a classifier two-sample test on embeddings (Lopez-Paz & Oquab 2017): below it, the data has moved."""
    minimum_samples: int = Field(30, ge=20)
    """Fewest new samples that are tested."""


class WarmStart(Part):
    """Retraining from the champion's weights instead of from fresh ones."""

    replay: float = Field(0.5, ge=0, lt=1)
    """Share of old samples in an epoch, drawn anew each time, against forgetting (Robins 1995); the others are the new ones."""
    compare: bool = True
    """Also train a fresh encoder for as many steps on all data, and show it beside in every evaluation."""


class Retrain(Part):
    """When the chain runs by itself, and from what it starts then. Nothing does unless it is named here."""

    cron: str | None = None
    """Standard five-field cron expression."""
    timezone: str = "UTC"
    on_new_data: NewData | None = None
    on_drift: Drift | None = None
    on_upstream: bool = False
    """When another recipe that this one needs has a new champion."""
    warm_start: WarmStart | None = None

    @field_validator("on_new_data", "on_drift", "warm_start", mode="before")
    @classmethod
    def true_is_the_usual(cls, said: Any) -> Any:
        return {} if said is True else None if said is False else said


WARM = ("image", "audio", "video", "series")


def usual_evaluation(said: dict[str, Any]) -> tuple[EvaluationPart, ...]:
    """The first evaluation that fits the encoder."""
    kind = getattr(said.get("encoder"), "kind", "image")
    parts: Any = EVALUATIONS
    return next(((part(),) for part in parts if kind in part.usual_for), ())


class Recipe(Document):
    """One pretraining, from a dataset to a registered model."""

    name: Name
    description: str = ""
    dataset: Name
    """The name of an `ssl_pipeline.Dataset` in the same project."""
    encoder: AnyEncoder = ImageEncoder()
    start_from: Name | None = None
    """Another recipe with the same encoder, whose pretrained one this goes on from: sentence embeddings after masked language
    modelling, for one."""
    pretext: Task
    pretrain: Pretrain = Pretrain()
    evaluations: tuple[AnyEvaluation, ...] = Field(default_factory=usual_evaluation, validate_default=True)
    """By default the one that suits the kind of encoder."""
    promote: Promote | None = Field(Promote(), validate_default=True)
    retrain: Retrain = Retrain()
    embeddings: bool = False
    """Keep embeddings of all samples by the champion: made again when the champion or the data is another one."""
    owners: tuple[Annotated[str, Field(pattern=r"^(team:[A-Za-z0-9_]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")], ...] = ()
    """`team:name` or e-mail addresses, shown in Dagster."""

    @property
    def upstream(self) -> dict[str, str]:
        """The other recipes that this one needs, by the field that names them."""
        named = {"start_from": self.start_from, "encoder.item_features": getattr(self.encoder, "item_features", None)}
        return {field: name for field, name in named.items() if name}

    @field_validator("pretext")
    @classmethod
    def fits_the_encoder(cls, pretext: PretextTask, info: ValidationInfo) -> PretextTask:
        encoder = info.data.get("encoder")
        if encoder is None:  # refused already
            return pretext
        if encoder.kind not in pretext.kinds:
            fitting = names_of(task for task in TASKS if encoder.kind in task.kinds)
            raise ValueError(
                f"task {pretext.task!r} is for encoders of kind {' or '.join(pretext.kinds)}, this one's is {encoder.kind}; "
                f"what fits {encoder.kind}: {', '.join(fitting)}"
            )
        return pretext.fitted(encoder)

    @field_validator("evaluations")
    @classmethod
    def fit_the_encoder(cls, evaluations: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        kinds = [e.kind for e in evaluations]
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise ValueError(f"{twice[0]} stands there twice: say all of it in one")
        encoder = info.data.get("encoder")
        pretext = info.data.get("pretext")
        if "pretext" in kinds and pretext and not pretext.keeps_head:
            fitting = names_of(task for task in TASKS if task.keeps_head)
            raise ValueError(
                f"pretext measures tasks with right answers ({', '.join(fitting)}), not {pretext.task}: leave it out"
            )
        return tuple(one.fitted(encoder) for one in evaluations) if encoder else evaluations

    @field_validator("retrain")
    @classmethod
    def fits_what_is_trained(cls, retrain: Retrain, info: ValidationInfo) -> Retrain:
        encoder = info.data.get("encoder")
        if encoder is None:
            return retrain
        if retrain.warm_start and encoder.kind not in WARM:
            raise ValueError(
                f"warm_start is for {', '.join(WARM)} encoders: of {encoder.kind} data, what the numbers mean (tokens, items) "
                "is learnt from all of it and changes with it"
            )
        if retrain.warm_start and info.data.get("start_from"):
            raise ValueError(
                "warm_start goes on from the champion and start_from from another recipe: name one of them"
            )
        if retrain.on_drift and encoder.kind not in WARM:
            raise ValueError(
                f"on_drift is for {', '.join(WARM)} encoders: new {encoder.kind} data is packed into other numbers: use on_new_data"
            )
        return retrain

    @field_validator("promote")
    @classmethod
    def names_a_metric(cls, promote: Promote | None, info: ValidationInfo) -> Promote | None:
        evaluations = info.data.get("evaluations")
        if promote is None or promote.metric or evaluations is None:
            return promote
        return promote.model_copy(update={"metric": evaluations[0].leading()}) if evaluations else None

    @model_validator(mode="after")
    def parts_agree(self) -> Self:
        if self.promote:
            known = [*(metric for e in self.evaluations for metric in e.metrics()), *LABEL_FREE]
            for metric in self.promote.least():
                if metric not in known:
                    raise ValueError(
                        f"promote: metric {metric!r} is not measured by this recipe's evaluations; choose one of {', '.join(known)}"
                    )
        return self


def load(path: str | Path) -> tuple[list[Dataset], list[Recipe]]:
    """Reads the datasets and recipes of one `defs.yaml` (one or more documents), without Dagster.

    Raises PipelineError naming the file and each field that is wrong.
    """
    kinds: dict[str, type[Part]] = {"ssl_pipeline.Dataset": Dataset, "ssl_pipeline.Pretraining": Recipe}
    found: dict[str, list[Any]] = {kind: [] for kind in kinds}
    try:
        documents = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
    except (OSError, yaml.YAMLError) as error:
        raise PipelineError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    for document in documents:
        kind = document.get("type") if isinstance(document, dict) else None
        if isinstance(kind, str) and not kind.startswith("ssl_pipeline."):
            continue  # another package's component
        if kind not in kinds:
            raise PipelineError(f"{path}: type {kind!r} is none of {', '.join(kinds)}")
        try:
            found[kind].append(kinds[kind].model_validate(document.get("attributes") or {}))
        except ValidationError as error:
            raise PipelineError(f"{path}: {explain(error)}") from error
    return found["ssl_pipeline.Dataset"], found["ssl_pipeline.Pretraining"]


def explain(error: ValidationError) -> str:
    """Every fault of a recipe on one line, each with its field's path."""
    return "; ".join(
        f"{'.'.join(str(p) for p in e['loc']) or 'recipe'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )
