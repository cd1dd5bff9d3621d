"""MovieLens-100k (Harper & Konstan 2015): 943 people rate 1,682 films. It travels inside recbole, read without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from ssl_pipeline.ingest import documents
from ssl_pipeline.ingest.item import Reading
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.part import PipelineError

PACKAGE = "recbole"


def movielens_100k() -> InteractionsSource:
    """Every rating counts as an interaction; films have a title, their genres are the text. Raises PipelineError where the
    package is missing."""
    folder = located()
    return InteractionsSource(
        path=str(folder / "ml-100k.inter"),
        user="user_id",
        item="item_id",
        rating="rating",
        items=str(folder / "ml-100k.item"),
        item_id="item_id",
        title="movie_title",
        text="class",
    )


def movielens_titles() -> Reading:
    """A text a film: its title, year and genres; the film is the group. Raises PipelineError where the package is missing."""
    path = located() / "ml-100k.item"
    columns = ("movie_title:token_seq", "release_year:token", "class:token_seq")
    return documents.read(Text(path=str(path), format="tsv", text=columns, group="item_id:token"), path)


def version(name: str) -> str:
    located()
    return importlib.metadata.version(PACKAGE)


def located() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "dataset_example" / "ml-100k" if spec and spec.origin else Path()
    if not (folder / "ml-100k.inter").is_file():
        raise PipelineError(
            f"demo movielens: package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==1.2.1"
        )
    return folder
