"""Dagster's runs, events and schedules in the shared database."""

from __future__ import annotations

from typing import Any

from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage

from ssl_pipeline import database


class SharedStorage(DagsterPostgresStorage):
    """PostgreSQL by the environment alone: Dagster hands a storage's settings on in the command lines of its processes,
    which every user of a machine can read, so this has none."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> SharedStorage:
        return cls(database.with_driver(database.url() or ""), inst_data=inst_data)
