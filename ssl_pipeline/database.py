"""The PostgreSQL database that several users share, by `SSL_PIPELINE_DATABASE_URL`: Dagster's runs and events, and turns.

Without the variable there is none, and everything lies in `store/` as for one user. The password stays in the
environment: nothing that is written anywhere, errors included, repeats it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ssl_pipeline.part import PipelineError, unreached

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

VARIABLE = "SSL_PIPELINE_DATABASE_URL"


def url() -> str | None:
    """The variable's value, or None where it is unset or empty. Raises PipelineError where it is no URL of PostgreSQL."""
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    try:
        parts = urlsplit(value)
        legible = parts.scheme == "postgresql" and parts.hostname and parts.netloc.count("@") <= 1 and parts.port != 0
    except ValueError:  # a password's # or / that was not escaped makes the rest no port
        legible = False
    if not legible:
        raise PipelineError(
            f"{VARIABLE}: must look like postgresql://user:password@host:5432/name, with % codes for signs such as @ / # : in "
            "the password (or leave that out and set PGPASSWORD)"
        )
    return value


def without_password(uri: str) -> str:
    """A URI, or a text with some in it, for people and records: whoever one names between `//` and `@` is left out, also
    where a password has a `/` that should have been escaped."""
    return re.sub(r"(?<=//)([^/\s]*|[^/\s:@]*:(?!\d+/)[^\s@]*)@", "", uri)


def with_driver(uri: str) -> str:
    """The URI as SQLAlchemy takes it: `postgresql://` alone means another driver from one release of it to the next."""
    return re.sub(r"^postgresql://", "postgresql+psycopg2://", uri)


@contextmanager
def connected() -> Iterator[Connection]:
    """A connection of its own. Raises PipelineError at once, on one line, where the database does not let us in."""
    address = url()
    assert address
    try:
        import psycopg2
    except ImportError as error:
        raise PipelineError(
            f"{VARIABLE} is set, but psycopg2 is missing: pip install 'ssl_pipeline[shared]'"
        ) from error
    try:
        opened = psycopg2.connect(address, connect_timeout=10, keepalives_idle=30, application_name="ssl_pipeline")
    except psycopg2.Error as error:
        reason = " ".join(str(error).split())
        raise unreached(reason)(
            f"the shared database {without_password(address)}: {reason}; start it or correct {VARIABLE} "
            "(unset: a file in store/)"
        ) from None
    opened.autocommit = True
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def turn(name: str) -> Iterator[None]:
    """One process at a time under this name, among all machines that share the database; nothing where none is shared.
    The server ends a turn when its process dies (an advisory lock of the session)."""
    if not url():
        yield
        return
    with connected() as database:
        with database.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"ssl_pipeline {name}"])
        yield


def machine() -> str:
    """This machine's name among those that share a database; two that have one host name are still told apart."""
    try:
        identity = Path("/etc/machine-id").read_bytes().strip()
    except OSError:  # containers and other systems: the host name has to do
        identity = b""
    return platform.node() + (f"-{hashlib.sha256(identity).hexdigest()[:6]}" if identity else "")
