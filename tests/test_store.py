from __future__ import annotations

import errno
import json
import multiprocessing
import time
from pathlib import Path

import pytest

from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import Store


def build(store, write, config=None, **options):
    return store.build("stage", config or {"a": 1}, {"input": "k"}, "1", write, **options)


def test_same_question_is_answered_once(tmp_path):
    made = []
    store = Store(tmp_path)
    first = build(store, lambda folder: made.append(folder) or {"n": 1})
    again = build(store, lambda folder: made.append(folder) or {"n": 2})
    other = build(store, lambda folder: made.append(folder) or {"n": 3}, {"a": 2})
    assert len(made) == 2 and again.reused and again.summary == first.summary == {"n": 1}
    assert other.key != first.key


def test_a_failed_stage_is_invisible_and_the_last_good_one_stays(tmp_path):
    store = Store(tmp_path)
    store.set_current("cats", build(store, lambda folder: {"n": 1}))

    def full(folder):
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))

    with pytest.raises(
        PipelineError, match=r"disk full while writing .*half: free space there or set SSL_PIPELINE_STORE"
    ):
        build(store, full, {"a": 2})
    assert store.current("cats", "stage").summary == {"n": 1}
    assert [p.name for p in (tmp_path / "stage").iterdir()] == [store.current("cats", "stage").key]


@pytest.mark.parametrize(
    ("largest", "least", "words"), [(6, "1", "twice its largest input of"), (0, "20", "the least that")]
)
def test_a_stage_that_may_not_have_room_does_not_start(largest, least, words, tmp_path, monkeypatch):
    """On a disk with 10 kB free: the input is read off the store, by key or by a dataset's digest."""
    store, made, digest = Store(tmp_path), [], "0" * 32 + ".dir"
    monkeypatch.setenv("SSL_PIPELINE_FREE_GB", "0")
    data = store.build(
        "dataset", {}, {"source": "s"}, "1", lambda f: (f / "x").write_bytes(bytes(6000)) and {"digest": digest}
    )
    pack = store.build("pack", {}, {}, "1", lambda f: (f / "x").write_bytes(bytes(4000)) and {})
    assert store.largest({"a": digest}) == 6000 and store.largest({"a": f"{pack.key},{data.key}"}) == 6000
    monkeypatch.setattr("ssl_pipeline.disk.free", lambda path: 10_000)
    monkeypatch.delenv("SSL_PIPELINE_FREE_GB")
    monkeypatch.setattr("ssl_pipeline.disk.LEAST", int(least) * 1000)
    inputs = {"dataset": digest} if largest else {"pack": pack.key}
    with pytest.raises(PipelineError, match=rf"features: 0\.00 GB are free in .*{words}.*ssl-pipeline clean"):
        store.build("features", {}, inputs, "1", lambda folder: made.append(1) or {})
    assert not made
    monkeypatch.setenv("SSL_PIPELINE_FREE_GB", "0.000005")  # whoever says so decides
    assert not store.build("features", {"again": True}, inputs, "1", lambda folder: {}).reused
    monkeypatch.delenv("SSL_PIPELINE_FREE_GB")
    assert store.build("features", {}, {"pack": "e" * 16}, "1", lambda folder: {}).reused is False if largest else True
    assert store.build("pack", {}, {}, "1", lambda folder: made.append(1) or {}).reused  # what is there needs no room


def test_a_store_that_cannot_be_written_is_named_with_its_cure():
    if not Path("/sys/kernel").is_dir():
        pytest.skip("needs a file system that even root cannot write, such as /sys")
    with pytest.raises(PipelineError, match=r"cannot write /sys/.*set SSL_PIPELINE_STORE to a folder that is"):
        build(Store(Path("/sys/kernel/store")), lambda folder: {})


def test_an_interrupted_stage_is_handed_over_as_it_was_left(tmp_path):
    store = Store(tmp_path)

    def interrupted(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(store, interrupted, resumable=True)
    done = build(store, lambda folder: {"found": (folder / "checkpoint").read_text()}, resumable=True)
    assert done.summary == {"found": "half"}


def slow_work(root: str, log: str) -> None:
    def write(folder):
        with open(log, "a") as file:
            file.write("worked\n")
        time.sleep(1.5)
        return {"n": 1}

    def waited(line):
        with open(log, "a") as file:
            file.write("waited\n")

    stage = build(Store(Path(root)), write, on_wait=waited)
    with open(log, "a") as file:
        file.write(json.dumps({"reused": stage.reused}) + "\n")


def test_of_two_at_once_one_works_and_the_other_waits_and_reuses(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=slow_work, args=(str(tmp_path / "store"), str(log))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    lines = log.read_text().splitlines()
    assert lines.count("worked") == 1 and lines.count("waited") == 1
    assert sorted(line for line in lines if "reused" in line) == ['{"reused": false}', '{"reused": true}']
