"""Promotion and rollback as jobs, for people who work in the Dagster UI: the same as the commands."""

# no `from __future__ import annotations` here: Dagster reads the type of `config` as it stands

from collections.abc import Callable

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG
from pydantic import Field

from ssl_pipeline.asked import ASKED, Asked
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project


class Chosen(dg.Config):
    """A model, and which of its versions."""

    model: str = Field(description="A registered model, which has its recipe's name.")
    version: int = Field(0, description="0 is the challenger; of a rollback, the champion before this one.")
    why: str = Field(description="The reason, for the history.")


@dg.op(description="Makes a version the champion; the one before it becomes `previous`.")
def promote_version(context: dg.OpExecutionContext, config: Chosen) -> None:
    from ssl_pipeline.approval import approve

    decided(context, lambda: approve(Project.find(), config.model, config.version or None, config.why))


@dg.op(description="Makes the champion before this one, or a version, the champion again.")
def roll_back_version(context: dg.OpExecutionContext, config: Chosen) -> None:
    from ssl_pipeline.approval import roll_back

    decided(context, lambda: roll_back(Project.find(), config.model, config.version or None, config.why))


ONCE = {MAX_RETRIES_TAG: "0"}
"""Taking a champion back a second time would go one version further."""


@dg.job(
    tags=ONCE,
    description="Makes a version of a registered model the champion, the one in use. Name the model in the Launchpad; without a "
    "version it is the challenger, which waits for approval. The command `ssl-pipeline promote` does the same.",
)
def promote() -> None:
    promote_version()


@dg.job(
    tags=ONCE,
    description="Takes a champion back: the version that was in use before it, or the one that you name in the Launchpad, is the "
    "champion again. The command `ssl-pipeline rollback` does the same.",
)
def rollback() -> None:
    roll_back_version()


def decided(context: dg.OpExecutionContext, decide: Callable[[], str]) -> None:
    """What a user can cure fails the step with that one line."""
    asked = ASKED.set(Asked(context.run_id))
    try:
        context.log.info(decide())
    except PipelineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    finally:
        ASKED.reset(asked)
