"""DVC: the versions of the datasets under `data/`, pinned in `data.dvc`, kept in a cache and a remote."""

from ssl_pipeline.versioning.pins import pinned
from ssl_pipeline.versioning.tree import digest
from ssl_pipeline.versioning.versions import commit, holds, restore

__all__ = ["commit", "digest", "holds", "pinned", "restore"]
