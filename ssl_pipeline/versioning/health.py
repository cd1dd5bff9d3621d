"""Whether DVC's repository opens, and whether its remote can be reached."""

from __future__ import annotations

from pathlib import Path


def repository(root: Path) -> tuple[Path, str | None]:
    """The cache's folder, and the name of the default remote if there is one. Raises whatever DVC raises."""
    from ssl_pipeline.versioning.versions import _open

    with _open(root.resolve()) as repo:
        return Path(repo.cache.local.path), repo.config["core"].get("remote")


def remote(root: Path) -> tuple[str, bool]:
    """Where the default remote is, and whether it is there. Raises whatever its library raises where it is out of reach."""
    from ssl_pipeline.versioning.versions import _open

    with _open(root.resolve()) as repo:
        store = repo.cloud.get_remote_odb(command="pull")
        place = store.fs.unstrip_protocol(store.path) if store.fs.protocol != "local" else store.path
        if store.fs.protocol == "local":  # its folders are made by the first push, but not those above it
            return place, any(Path(one).is_dir() for one in (store.path, *list(Path(store.path).parents)[:3]))
        store.fs.fs.invalidate_cache()
        store.fs.exists(store.path)  # an empty bucket has no such folder, and yet it answers
        return place, True
