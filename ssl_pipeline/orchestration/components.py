"""`ssl_pipeline.Dataset` and `ssl_pipeline.Pretraining`, as a `defs.yaml` names them: shells over the plain recipe.

Dagster validates the attributes against the recipe's own pydantic model and points at the line that is wrong.
"""

from __future__ import annotations

from typing import Any, Self

import dagster as dg
from pydantic import BaseModel

from ssl_pipeline import recipe
from ssl_pipeline.orchestration import assets, checks, schedules
from ssl_pipeline.orchestration.scaffold import DatasetScaffolder, PretrainingScaffolder


@dg.scaffold_with(DatasetScaffolder)
class Dataset(dg.Component):
    """A source of samples, ingested, split and versioned with DVC."""

    def __init__(self, config: recipe.Dataset) -> None:
        self.config = config

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return recipe.Dataset

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        return cls(attributes or recipe.Dataset.model_validate({}))

    def build_defs(self, context: dg.ComponentLoadContext | None = None) -> dg.Definitions:
        return dg.Definitions(
            assets=[assets.dataset_asset(self.config)],
            asset_checks=checks.dataset_checks(self.config),
        )


@dg.scaffold_with(PretrainingScaffolder)
class Pretraining(dg.Component):
    """A self-supervised pretraining, from a dataset to an evaluated encoder in MLflow's registry."""

    def __init__(self, config: recipe.Recipe) -> None:
        self.config = config

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return recipe.Recipe

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        return cls(attributes or recipe.Recipe.model_validate({}))

    def build_defs(self, context: dg.ComponentLoadContext | None = None) -> dg.Definitions:
        own = dg.Definitions(assets=assets.recipe_assets(self.config), asset_checks=checks.recipe_checks(self.config))
        return dg.Definitions.merge(own, schedules.recipe_automation(self.config))
