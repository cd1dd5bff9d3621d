"""A month of batches, as `python -m benchmarks.month` drives it, with less training."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.month import RECIPE, live
from ssl_pipeline import tracking
from ssl_pipeline.orchestration import sensors
from ssl_pipeline.record import open_tracker


@pytest.mark.slow
def test_bad_batches_change_nothing_and_good_ones_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(sensors, "now", sensors.now)
    quick = RECIPE | {"pretrain": RECIPE["pretrain"] | {"epochs": 2}, "promote": {"minimum": 0.1, "worse_by": 0.5}}
    month, lived = live(tmp_path, quick)
    seen = {batch.what.split(":")[0].split(",")[0]: (batch, before, after) for batch, before, after in lived}
    asked = {what: [line for line in batch.seen if line.startswith("post: ")] for what, (batch, *_) in seen.items()}
    for bad in ("duplicate", "too small", "corrupt"):
        batch, before, after = seen[bad]
        assert not asked[bad] and before == after is not None, batch.seen
        assert any("no training" in line for line in batch.seen)
    assert any("FAILED" in line and "max_quarantined" in line for line in seen["corrupt"][0].seen)
    assert "new data: 420 samples" in asked["the same 400 files"][0]
    assert "drift: p = " in asked["drifted"][0]
    store, tracker = month.project.store, open_tracker(month.project)
    versions = tracking.versions(tracker, "post")
    digests = [version.tags["data_digest"] for version in versions]
    assert len(set(digests)) == len(versions) == 5  # one a batch that was a reason
    promoted = [move for move in tracking.history(tracker, "post") if move.alias == "champion"]
    assert [move.data for move in promoted] == digests and all("Dagster run" in move.who for move in promoted)
    encoder = store.current("post", "pretrained_encoder")
    assert encoder and encoder.summary["new_samples"] and encoder.summary["made_from"]["start_from"]
    embedded = store.current("post", "embeddings")
    assert embedded and embedded.summary["model"] == f"models:/post/{seen['400 new ones'][2]}"
