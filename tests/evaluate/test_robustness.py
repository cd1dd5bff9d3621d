from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_pipeline.encoders.encoder import build
from ssl_pipeline.evaluate import robustness
from ssl_pipeline.evaluate.classification import labels_of
from ssl_pipeline.evaluate.robustness import chosen, corrupted, summarize, through
from ssl_pipeline.evaluate.settings_robustness import CORRUPTIONS, SEVERITIES, Robustness
from ssl_pipeline.features.extract import embed
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.recipe import Recipe

FEW = ("gaussian_noise", "contrast")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 36, 36), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 27, 28, 32, 40])
def test_nothing_is_lost_on_the_way_to_the_corruptions_and_back(channels, side):
    images = np.random.default_rng(0).integers(0, 256, (4, channels, side, side), dtype=np.uint8)
    seen = []

    def same(image, seed):
        seen.append((image.shape, seed))
        return image

    assert np.array_equal(through(images, same), images)
    assert seen == [((max(32, side), max(32, side), 3), row) for row in range(4)]


def test_edges_are_repeated_around_small_images():
    images = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    seen = []
    through(images, lambda image, seed: seen.append(image) or image)
    assert (seen[0][:14, :14] == 0).all() and (seen[0][-14:, -14:] == 8).all()


def test_the_same_corruption_whatever_was_drawn_before(images):
    pytest.importorskip("imagecorruptions")
    for name in CORRUPTIONS:
        np.random.seed(1)
        first, after = corrupted(images, name, 3), np.random.random()
        np.random.seed(2)
        assert np.array_equal(corrupted(images, name, 3), first), name
        assert not np.array_equal(first, images), name
        np.random.seed(1)
        assert np.random.random() == after, "the global generator is left alone"


def test_severities_take_more_and_more_away():
    """Of photographs, by the distance to the clean image: more at 5 than at 1."""
    pytest.importorskip("imagecorruptions")
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg")[:384, :512].reshape(6, 64, 8, 64, 3).transpose(0, 2, 4, 1, 3)
    images = photo.reshape(-1, 3, 64, 64)[::8]
    for name in CORRUPTIONS:
        far = [np.abs(corrupted(images, name, s).astype(float) - images).mean() for s in (1, 5)]
        assert far[0] > 0.5, name
        least = 0.8 if name == "spatter" else 1.05  # mud covers less than water, but more thoroughly
        assert far[1] > far[0] * least, name


def test_known_corruptions_in_closed_form(images):
    pytest.importorskip("imagecorruptions")
    x = images.astype(float)
    mean = x.mean((2, 3), keepdims=True)
    np.testing.assert_allclose(corrupted(images, "contrast", 5), mean + 0.05 * (x - mean), atol=1)
    grey = np.full((20, 1, 32, 32), 128, np.uint8)
    noise = corrupted(grey, "gaussian_noise", 1).astype(float)
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.05), "grey images get the noise at full strength"
    assert abs(noise.mean() - 127.5) < 0.5
    assert len(np.unique(noise[:, 0, 0, 0])) > 10, "each image its own"


def test_no_drop_on_a_small_image_leaves_it():
    """imagecorruptions divides by its largest drop."""
    pytest.importorskip("imagecorruptions")
    images = np.full((300, 1, 32, 32), 100, np.uint8)
    means = corrupted(images, "spatter", 1).mean((1, 2, 3))
    assert means.min() == 100 and means.max() > 101


def test_metrics_by_hand():
    correct = {("a", s): np.array([1, 1, 0, 0], bool) for s in SEVERITIES}
    correct |= {("b", s): np.array([1, s == 1, 0, 0], bool) for s in SEVERITIES}
    found = summarize(correct, np.array([1, 1, 1, 0], bool))
    mean = {name.split("/")[2]: cell["mean"] for name, cell in found.items()}
    assert mean == pytest.approx(
        {
            "mean_accuracy": 0.4,
            "relative": 0.4 / 0.75,
            "clean_accuracy": 0.75,
            "accuracy_under_a": 0.5,
            "accuracy_under_b": 0.3,
        }
    )
    assert all(cell["low"] <= cell["mean"] <= cell["high"] for cell in found.values())
    unharmed = summarize({("a", s): np.ones(50, bool) for s in SEVERITIES}, np.ones(50, bool))
    assert unharmed["robustness/linear/relative/all"] == {"mean": 1, "low": 1, "high": 1}


def test_own_and_baselines_on_digits(digits_pack, make_recipe):
    pytest.importorskip("imagecorruptions")
    recipe = make_recipe("rotation")
    settings = Robustness(corruptions=FEW, test_samples=60, supervised_steps=30).fitted(recipe.encoder)
    torch.manual_seed(0)
    encoder = build(recipe.encoder, digits_pack.given).eval()
    features = {split: embed(encoder, digits_pack.samples(split), recipe.pretrain) for split in SPLITS}
    result = robustness.own(recipe, digits_pack, encoder, features, digits_pack.path, settings)
    assert set(settings.metrics()) < set(result.metrics)
    assert {f"robustness/linear/accuracy_under_{name}/all" for name in FEW} < set(result.metrics)
    mean = {name.split("/")[2]: cell["mean"] for name, cell in result.metrics.items()}
    assert mean["mean_accuracy"] < mean["clean_accuracy"]
    assert mean["mean_accuracy"] == pytest.approx(np.mean([mean[f"accuracy_under_{name}"] for name in FEW]))
    assert result.pictures["corrupted"][1].shape == (3, 8, 1, 16, 16)
    assert "edges repeated from 16 to 32" in settings.caption(result.facts)

    told = []
    others = robustness.baselines(recipe, digits_pack, settings, told.append)
    assert list(others) == ["random encoder", "supervised"] and len(told) == 3
    # the encoder above has the weights of the random one
    assert others["random encoder"] == result.metrics
    assert set(others["supervised"]) == {name.replace("linear", "supervised") for name in result.metrics}


def test_a_probe_of_noise_stays_at_chance(digits_pack, make_recipe):
    pytest.importorskip("imagecorruptions")
    recipe = make_recipe("rotation")
    settings = Robustness(corruptions=("contrast",), test_samples=397)
    rng = np.random.default_rng(0)
    encoder = build(recipe.encoder, digits_pack.given).eval()
    random = {
        split: rng.normal(size=(len(digits_pack.index(split)), encoder.dim)).astype(np.float32) for split in SPLITS
    }
    found = robustness.own(recipe, digits_pack, encoder, random, digits_pack.path, settings).metrics
    assert found["robustness/linear/mean_accuracy/all"]["mean"] < 0.2


def test_images_of_other_channels_are_refused(digits_pack, tmp_path):
    for split in SPLITS:
        digits_pack.index(split).to_parquet(tmp_path / f"{split}.parquet")
        np.save(tmp_path / f"{split}.image.npy", np.repeat(digits_pack.samples(split)["image"], 5, 1))
    pack = Pack(tmp_path, {"channels": 5})
    with pytest.raises(PipelineError, match="the images have 5 channels"):
        chosen(pack, labels_of(pack), Robustness())


def test_a_recipe_names_them_and_is_told_where_they_do_not_fit(make_recipe):
    recipe = make_recipe("rotation", evaluations=[{"kind": "robustness"}, {"kind": "clustering"}], promote=None)
    assert [e.kind for e in recipe.evaluations] == ["robustness", "clustering"]
    assert recipe.evaluations[0].supervised_views is not None
    said = recipe.model_dump(mode="json")
    with pytest.raises(ValueError, match="robustness is for image encoders"):
        Recipe.model_validate(
            said | {"encoder": {"kind": "text"}, "pretext": {"task": "simcse"}, "evaluations": [{"kind": "robustness"}]}
        )
    with pytest.raises(ValueError, match="corruptions"):
        make_recipe("rotation", evaluations=[{"kind": "robustness", "corruptions": ["rain"]}])
