from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.features.extract import embed, read, write
from ssl_pipeline.features.measures import MEASURES, rank_correlation
from ssl_pipeline.features.quality import (
    alignment,
    alpha_req,
    embedded_views,
    label_free_quality,
    lidar,
    rankme,
    uniformity,
)
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


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dim", [16, 200])
def test_alpha_req_is_the_exponent_of_a_power_law(alpha, dim):
    rng = np.random.default_rng(0)
    left = rng.normal(size=(400, dim))
    left = np.linalg.qr(left - left.mean(0))[0]  # centred columns of length 1
    right = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    embedding = left * np.arange(1, dim + 1) ** (-alpha / 2) @ right
    shifted = torch.from_numpy(7 * embedding + 3)  # neither scale nor mean matter
    assert alpha_req(shifted) == pytest.approx(alpha, abs=1e-6)


def test_alpha_req_needs_a_spectrum():
    assert np.isnan(alpha_req(torch.randn(50, 6)))
    assert np.isnan(alpha_req(torch.ones(50, 30)))
    assert alpha_req(torch.randn(4000, 100)) < 0.15  # white noise hardly falls


def test_lidar_of_views_that_agree_is_the_rank_of_their_samples():
    """Means at the ends of every axis, alike in all directions."""
    means = torch.cat([torch.eye(12), -torch.eye(12)])
    same = means[:, None].expand(-1, 4, -1)
    assert lidar(same) == pytest.approx(12, abs=0.01)
    padded = torch.cat([same, torch.zeros(24, 4, 20)], 2)  # directions in which nothing differs do not count
    assert lidar(padded) == pytest.approx(12, abs=0.01)
    assert lidar(torch.ones(24, 4, 12)) < 2  # collapsed


def test_lidar_by_hand():
    """Two directions: samples differ by 1 in both, views by 1 in the one and by a half in the other."""
    means = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    offsets = torch.tensor([[1.0, 0.5], [-1, 0.5], [1, -0.5], [-1, -0.5]])
    views = means[:, None] + offsets
    delta = 1e-4 * (2 + 1.25) / 2
    ratio = np.array([1 / (1 + delta), 1 / (0.25 + delta)])
    p = ratio / ratio.sum()
    assert lidar(views) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert lidar(100 * views) == pytest.approx(lidar(views), rel=1e-6)


def test_lidar_leaves_out_what_views_do_not_agree_on():
    """RankMe counts every direction that is in use, LiDAR those by which samples are told apart."""
    torch.manual_seed(0)
    told = torch.randn(500, 1, 5).expand(-1, 8, -1) + 0.1 * torch.randn(500, 8, 5)
    noise = torch.randn(500, 8, 15)
    views = torch.cat([told, noise], 2)
    assert rankme(views[:, 0]) > 17
    assert 4.5 < lidar(views) < 7


class Darker:
    """Views of which the k-th has a k-th of the brightness less, rendered as `Views` does: all first ones, then all second."""

    def draw(self, shape, generator):
        return {"keep": 1 - torch.arange(shape[1]).expand(shape) / shape[1]}

    def render(self, images, parameters):
        return torch.cat([images * keep.view(-1, 1, 1, 1) for keep in parameters["keep"].T])


def test_views_of_a_sample_stay_together(digits_pack, make_recipe):
    encoder = build(make_recipe().encoder, {"channels": 1}).eval()
    samples = {"image": torch.from_numpy(np.array(digits_pack.samples("test")["image"][:70]))}
    with torch.inference_mode():
        views = embedded_views(encoder, samples, Darker(), nullcontext)
        assert views.shape == (70, 8, encoder.dim)
        for k in (0, 3, 7):
            expected = encoder(encoder.read(samples) * (1 - k / 8))
            torch.testing.assert_close(views[:, k], expected, atol=1e-4, rtol=1e-4)


def test_quality_is_the_same_each_time_and_all_there_is(digits_pack, make_recipe):
    torch.manual_seed(0)
    encoder = build(make_recipe().encoder, {"channels": 1}).eval()
    exact = Pretrain(precision="fp32")
    found = label_free_quality(encoder, digits_pack, exact, "image")
    assert set(found) == set(MEASURES)
    assert found == label_free_quality(encoder, digits_pack, exact, "image")
    assert set(label_free_quality(encoder, digits_pack, exact, "text")) == {"rankme", "alpha_req", "uniformity"}


def test_rank_correlation_knows_which_way_is_better():
    rows = [{"rankme": r, "alignment": a, "accuracy": x} for r, a, x in [(9, 0.1, 0.9), (5, 0.4, 0.5), (2, 0.6, 0.2)]]
    found = {one.measure: one for one in rank_correlation(rows)}
    assert set(found) == {"rankme", "alignment"}
    assert found["rankme"].tau == found["alignment"].tau == 1
    assert found["rankme"].p_value == pytest.approx(2 / 6)  # of six orders, two are as extreme
    assert found["rankme"].recipes == 3
    assert rank_correlation(rows[:2]) == []
    assert rank_correlation([row | {"rankme": 1, "alignment": 1} for row in rows]) == []


def test_rank_correlation_of_chance_is_none():
    rng = np.random.default_rng(0)
    taus, p_values = [], []
    for _ in range(300):
        (one,) = rank_correlation([{"lidar": x, "accuracy": y} for x, y in rng.normal(size=(8, 2))])
        taus.append(one.tau)
        p_values.append(one.p_value)
    assert abs(np.mean(taus)) < 0.06
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.08


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
