from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.features.extract import embed, read, write
from ssl_pipeline.features.quality import alignment, rankme, uniformity
from ssl_pipeline.recipe import Pretrain


def test_rankme_of_known_spectra():
    assert rankme(torch.eye(12)) == pytest.approx(12, abs=0.01)
    assert rankme(torch.ones(50, 12)) == pytest.approx(1, abs=0.01)


def test_alignment_and_uniformity_against_loops():
    torch.manual_seed(0)
    a, b = torch.randn(20, 8), torch.randn(20, 8)
    unit = lambda rows: [row / row.norm() for row in rows]  # noqa: E731
    expected = np.mean([float((x - y).square().sum()) for x, y in zip(unit(a), unit(b), strict=True)])
    assert alignment(a, b) == pytest.approx(expected, rel=1e-5)
    assert alignment(a, 3 * a) == pytest.approx(0, abs=1e-6)
    z = unit(a)
    pairs = [np.exp(-2 * float((z[i] - z[j]).square().sum())) for i in range(20) for j in range(i)]
    assert uniformity(a) == pytest.approx(np.log(np.mean(pairs)), rel=1e-4)


def test_features_are_the_encoders_answers_in_the_packs_order(digits_pack, make_recipe, tmp_path):
    encoder = build(make_recipe().encoder, {"channels": 1}).eval()
    exact = Pretrain(precision="fp32")
    summary = write(encoder, digits_pack, tmp_path, exact)
    assert summary["samples"] == 1797 and summary["dim"] == encoder.dim
    table = pq.read_table(tmp_path / "features.parquet").to_pandas()
    assert table[table.split == "test"].sample_id.tolist() == digits_pack.index("test").sample_id.tolist()
    images = torch.from_numpy(np.array(digits_pack.samples("test")["image"])).float() / 255
    with torch.no_grad():
        np.testing.assert_allclose(read(tmp_path, "test"), encoder(images).numpy(), atol=1e-5)
    np.testing.assert_allclose(embed(encoder, digits_pack.samples("test"), exact), read(tmp_path, "test"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "fp32", "compile": True}, {"compile": True}])
def test_fast_features_point_where_exact_ones_do(settings, digits_pack, make_recipe):
    torch.manual_seed(0)
    encoder = build(make_recipe().encoder, {"channels": 1}).eval()
    samples = digits_pack.samples("train")  # more than one batch, the last one smaller
    exact, fast = (torch.from_numpy(embed(encoder, samples, Pretrain(**s))) for s in ({"precision": "fp32"}, settings))
    assert torch.nn.functional.cosine_similarity(exact, fast).min() > 0.999
