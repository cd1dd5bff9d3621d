"""Whether MLflow answers, and whether its database is of the version that is installed; asked without making anything."""

from __future__ import annotations

from urllib.parse import urlsplit


def answer(uri: str, seconds: float) -> str:
    """What a server says of its version, or how many tables a database has. Raises what requests and SQLAlchemy raise."""
    if urlsplit(uri).scheme in ("http", "https"):
        import requests

        said = requests.get(f"{uri.rstrip('/')}/version", timeout=seconds)
        said.raise_for_status()
        return f"a server of MLflow {said.text.strip()[:40]}"
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        return f"a database of {len(sqlalchemy.inspect(engine).get_table_names())} tables"
    finally:
        engine.dispose()


def schema(uri: str) -> tuple[str | None, str]:
    """The revision of a database's tables, None where it has none, and the one that the installed MLflow asks for."""
    import sqlalchemy
    from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version

    engine = sqlalchemy.create_engine(uri)
    try:
        return _get_schema_version(engine), _get_latest_schema_revision()
    finally:
        engine.dispose()
