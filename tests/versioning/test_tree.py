from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pipeline.part import PipelineError
from ssl_pipeline.versioning import digest
from ssl_pipeline.versioning.tree import decode, digest_of, encode, listing

Tree = Callable[..., Path]

MD5 = "0" * 32


def test_digest_is_what_dvc_add_writes(bare: Path, tree: Tree) -> None:
    from dvc.repo import Repo

    folder = tree().rename(bare / "folder")
    (folder / "nothing in it").mkdir()
    Repo.init(str(bare), no_scm=True)
    with Repo(str(bare)) as repo:
        (stage,) = repo.add(str(folder))
    assert digest(folder) == stage.outs[0].hash_info.value
    assert len(digest(folder)) == 36


def test_digest_needs_no_dvc() -> None:
    code = "import sys, ssl_pipeline.versioning as v, pathlib; v.digest(pathlib.Path()); print('dvc' in sys.modules)"
    here, repository = Path(__file__).parent, Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=here, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "False\n", done.stderr


def test_digest_sees_content_and_names(tree: Tree) -> None:
    folder = tree()
    before = digest(folder)
    (folder / "dataset.json").rename(folder / "dataset2.json")
    renamed = digest(folder)
    (folder / "dataset2.json").write_text("changed")
    assert len({before, renamed, digest(folder)}) == 3


@pytest.mark.parametrize("target", ["dataset.json", "more", "/etc/hostname", "nowhere"])
def test_symlinks_are_refused(tree: Tree, target: str) -> None:
    (tree_ := tree()).joinpath("more", "link").symlink_to(target)
    with pytest.raises(PipelineError, match="more/link: is a symlink"):
        digest(tree_)


def test_pipes_and_what_dvc_skips_are_refused(tree: Tree) -> None:
    os.mkfifo((pipe := tree("pipe")) / "pipe")
    with pytest.raises(PipelineError, match="neither a file nor a folder"):
        digest(pipe)
    (hidden := tree("hidden")).joinpath("more", ".git").mkdir()
    with pytest.raises(PipelineError, match="DVC leaves this name out"):
        digest(hidden)
    with pytest.raises(PipelineError, match="is not a folder"):
        digest(hidden / "dataset.json")


def test_a_listing_survives_the_round_trip(tree: Tree) -> None:
    files = listing(tree())
    assert decode(encode(files), digest_of(encode(files)), "here") == files


@pytest.mark.parametrize(
    "path", ["../../x", "/etc/x", "a/../../x", "..", ".", "", "a//b", "a/", "a/./b", "nul\0"], ids=lambda p: repr(p)
)
def test_paths_that_lead_out_are_refused(path: str) -> None:
    data = encode({path: MD5})
    with pytest.raises(PipelineError, match="leads out of the folder"):
        decode(data, digest_of(data), "crafted")


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, [1], ["ab"], [{}], [{"md5": MD5}], [{"relpath": 1, "md5": MD5}], [{"relpath": "a", "md5": "../../x"}],
     [{"relpath": "a", "md5": 7}], [{"relpath": ["a"], "md5": MD5}], None, 3],
)  # fmt: skip
def test_other_json_is_refused(value: object) -> None:
    data = json.dumps(value).encode()
    with pytest.raises(PipelineError, match="crafted: is no list of files"):
        decode(data, digest_of(data), "crafted")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_listing_or_a_pipeline_error(data: bytes) -> None:
    with pytest.raises(PipelineError, match="damaged"):
        decode(data, MD5 + ".dir", "crafted")
    try:
        decode(data, digest_of(data), "crafted")
    except PipelineError as error:
        assert "\n" not in str(error)
