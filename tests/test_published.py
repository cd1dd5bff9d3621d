"""Every evaluation gives the published number under the published protocol, within what its row says."""

from __future__ import annotations

import pytest

from ssl_pipeline.part import PipelineError

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("OMP_NUM_THREADS", "1")  # a benchmark would set it for all tests that follow
    from benchmarks.published import PARTS

SLOW = {"MiniRocket, longer series"}


@pytest.mark.parametrize("part", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in PARTS])
def test_ours_is_the_published_number(part):
    try:
        rows = list(PARTS[part]())
    except PipelineError as error:
        pytest.skip(str(error))
    apart = {
        (row.data, row.metric): (row.ours, row.published)
        for row in rows
        if abs(row.ours - row.published) > row.tolerance
    }
    assert rows and not apart
