"""mIoU against loops and torchmetrics, the layer against scikit-learn's, chance and perfection, and the whole evaluation."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchmetrics.classification import MulticlassJaccardIndex

from ssl_pipeline import chain
from ssl_pipeline.encoders.encoder import build, save
from ssl_pipeline.encoders.settings import ImageEncoder
from ssl_pipeline.evaluate import segmentation, segmentation_probe
from ssl_pipeline.evaluate.segmentation import (
    Masked,
    confusions,
    error_of,
    iou,
    masked,
    miou,
    own,
    pixel_accuracy,
    probed,
    rows_of,
)  # fmt: skip
from ssl_pipeline.evaluate.segmentation_baselines import commonest, patches, supervised
from ssl_pipeline.evaluate.segmentation_probe import Head, enlarged, fitted, places, shares_of
from ssl_pipeline.evaluate.settings_segmentation import Segmentation
from ssl_pipeline.ingest.image_masks import IGNORED, ImageMasks, Mask
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing import image
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset
from ssl_pipeline.report import pictures
from ssl_pipeline.report.tables import rows_of as table_rows
from tests.conftest import SMALL_RESNET

SIDE = 16
COUNTS = {"train": 24, "validation": 6, "test": 10}
NAMES = ("ground", "red", "blue")
RESNET = ImageEncoder.model_validate(SMALL_RESNET)
VIT = ImageEncoder(backbone="test_vit", image_size=16, options={"patch_size": 4})
SETTINGS = Segmentation(images=(4, "all"), stage=-3, supervised_steps=3)


def scene(number: int, side: int = SIDE) -> tuple[bytes, bytes]:
    """Noise with a red and a blue rectangle, and their mask, whose first row is ignored."""
    random = np.random.default_rng(number)
    pixels, ids = random.integers(0, 90, (side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    for label, colour in ((1, (230, 20, 20)), (2, (20, 20, 230))):
        top, left = random.integers(0, side // 2, 2)
        area = np.s_[top : top + side // 2, left : left + side // 3]
        pixels[area], ids[area] = colour, label
    ids[0] = 200
    files = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(files[0], "PNG")
    Image.fromarray(ids).save(files[1], "PNG")
    return files[0].getvalue(), files[1].getvalue()


def packed(folder) -> Pack:
    (folder / "tree").mkdir()
    medium, number = ImageMasks(), 0
    with Shards(folder / "tree", medium) as shards:
        for split, count in COUNTS.items():
            for _ in range(count):
                data, mask = scene(number)
                sample = medium.read(data, {"mask": Mask(lambda mask=mask: mask, NAMES, 200)})
                about = {"sample_id": sample.identity, "label": None, "group": None, "source": str(number)}
                shards.add(split, about | sample.columns)
                number += 1
    about = {"channels": 3, "splits": COUNTS, "masks": {"classes": NAMES, "ignore": 200}}
    (folder / "tree" / "dataset.json").write_text(json.dumps(about))
    (folder / "pack").mkdir()
    return Pack(folder / "pack", image.write(folder / "tree", folder / "pack", RESNET))


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def data(pack):
    return masked(pack)[0]


def random_masks(seed: int, n: int = 5, classes: int = 4, side: int = 9) -> np.ndarray:
    masks = np.random.default_rng(seed).integers(0, classes, (n, side, side)).astype(np.uint8)
    masks[np.random.default_rng(seed + 100).random(masks.shape) < 0.1] = IGNORED
    return masks


@pytest.mark.parametrize("seed", range(3))
def test_miou_is_what_loops_and_torchmetrics_say(seed):
    truth, found = random_masks(seed), random_masks(seed + 50) % 4
    if seed == 2:  # a class that is only found, and one that is neither
        truth[truth == 3], found[found == 3] = 0, 0
        truth[truth == 2] = 0
    ious, right, asked = [], 0, 0
    for number in range(4):
        inside = outside = 0
        for t, f in zip(truth.ravel().tolist(), found.ravel().tolist(), strict=True):
            if t != IGNORED:
                inside += t == f == number
                outside += number in (t, f)
        ious.append(inside / outside if outside else np.nan)
    for t, f in zip(truth.ravel(), found.ravel(), strict=True):
        right, asked = right + (t == f), asked + (t != IGNORED)
    total = confusions(found, truth, 4).sum(0)
    np.testing.assert_allclose(iou(total), ious)
    assert miou(total) == pytest.approx(np.nanmean(ious)) and pixel_accuracy(total) == pytest.approx(right / asked)
    judge = MulticlassJaccardIndex(4, average="macro", ignore_index=IGNORED)
    judge.update(torch.from_numpy(found).long(), torch.from_numpy(truth).long())
    assert miou(total) == pytest.approx(float(judge.compute()), abs=1e-6)


def as_data(images, masks, groups=None):
    """The same arrays as every split."""
    one = Masked(images, masks, np.arange(len(masks)) if groups is None else groups)
    return {"train": one, "validation": one, "test": one}


def test_perfect_features_give_one_and_random_ones_chance():
    masks = random_masks(0, 8, 3, 16)
    asked = [(4, 0), ("all", 0)]
    order = {masks[i].tobytes(): i for i in range(8)}

    def perfect(images):
        found = masks[[order[one.tobytes()] for one in images]]
        return torch.stack([torch.from_numpy(found == number) for number in range(3)], 1).float()

    answers, _ = probed(perfect, as_data(masks, masks), 3, asked, SETTINGS)
    assert all(miou(one.sum(0)) == pixel_accuracy(one.sum(0)) == 1 for one in answers.values())

    chance = torch.Generator().manual_seed(0)
    unseen = as_data(masks, masks) | {"test": Masked(masks, random_masks(7, 60, 3, 16), np.arange(60))}
    unseen["test"] = Masked(np.zeros((60, 16, 16), np.uint8), unseen["test"].masks, np.arange(60))
    answers, _ = probed(
        lambda images: torch.randn(len(images), 5, 16, 16, generator=chance), unseen, 3, asked, SETTINGS
    )
    for one in answers.values():
        assert pixel_accuracy(one.sum(0)) == pytest.approx(1 / 3, abs=0.02)
        assert 0.1 < miou(one.sum(0)) < 0.215  # one class for all gives 1/9, any at random 1/5


def test_random_masks_teach_nothing_of_real_images(data):
    masks = random_masks(3, 60, 3, SIDE)
    shuffled = {s: Masked(one.images, masks[: len(one.masks)], one.groups) for s, one in data.items()}
    answers, _ = probed(lambda images: patches(images, (4, 4)), shuffled, 3, [("all", 0)], SETTINGS)
    assert pixel_accuracy(answers[("all", 0)].sum(0)) == pytest.approx(1 / 3, abs=0.04)


def test_the_layer_is_scikit_learns_on_standardised_features(data):
    """Places of one class each: the folded layer answers as the pipeline does."""
    train = data["train"]
    rows = np.arange(6)

    def pixels(images):
        return torch.from_numpy(images).float() * torch.tensor([1.0, 0.01, 5.0])[:, None, None] + 3

    heads = fitted(pixels, train.images, train.masks, rows, 3, SETTINGS.model_copy(update={"locations": 10**6}), 0)
    x = np.moveaxis(np.array(train.images[rows]), 1, -1).reshape(-1, 3) * [1.0, 0.01, 5.0] + 3
    y = np.array(train.masks[rows]).ravel()
    for head, penalty in zip(heads, segmentation_probe.PENALTIES, strict=True):
        peer = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000, tol=1e-6))
        peer.fit(x[y != IGNORED], y[y != IGNORED])
        ours = head.classes_of(pixels(np.array(train.images[rows])), SIDE).ravel()
        assert (ours == peer.predict(x)).mean() > 0.995


@pytest.mark.parametrize("seen", [(1,), (0, 2), (0, 1, 2)])
def test_classes_that_are_not_there_are_never_said(seen):
    masks = np.array(seen, np.uint8)[np.arange(4 * 64).reshape(4, 8, 8) % len(seen)]
    images = np.repeat(masks[:, None] * np.uint8(80), 3, 1)
    heads = fitted(lambda a: torch.from_numpy(a).float(), images, masks, np.arange(4), 3, SETTINGS, 0)
    found = heads[-1].classes_of(torch.from_numpy(images).float(), 8)
    assert set(np.unique(found)) == set(seen) and ((found == masks).mean() > 0.9 or len(seen) > 2)


def test_a_place_is_shared_among_its_pixels():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :2, :2] = torch.tensor([[1, 2], [2, 2]])
    masks[0, 2:, 2:] = IGNORED
    masks[0, 2:, 0] = IGNORED
    shares = shares_of(masks, 3, (2, 2))[0]
    assert shares[:, 0, 0].tolist() == [0, 0.25, 0.75] and shares[:, 0, 1].tolist() == [1, 0, 0]
    assert shares[:, 1, 0].tolist() == [0.5, 0, 0] and shares[:, 1, 1].tolist() == [0, 0, 0]


def test_places_are_drawn_evenly_and_the_same_for_the_same_draw(data):
    train = data["train"]

    def locate(images):
        return torch.arange(SIDE * SIDE).reshape(1, 1, SIDE, SIDE).expand(len(images), 1, SIDE, SIDE).float()

    x, shares = places(locate, train.images, train.masks, np.arange(6), 3, 60, 0)
    again = places(locate, train.images, train.masks, np.arange(6), 3, 60, 0)[0]
    other = places(locate, train.images, train.masks, np.arange(6), 3, 60, 1)[0]
    assert len(x) == 60 and (x == again).all() and (x != other).any()
    assert x.min() >= SIDE  # the first row is ignored
    truth = np.array([train.masks[i].ravel()[int(at)] for i, at in enumerate_rows(x, 10)])
    assert (shares.argmax(1) == truth).all()


def enumerate_rows(x, per_image):
    return [(n // per_image, at) for n, at in enumerate(x[:, 0])]


def test_logits_are_enlarged_about_the_middles_of_places():
    """A stripe's edge stays where it is."""
    stripes = torch.tensor([[[[5.0, 5, -5, -5]] * 4, [[-5.0, -5, 5, 5]] * 4]]).reshape(1, 2, 4, 4)
    found = enlarged(stripes, 16).argmax(1)[0]
    assert (found == (torch.arange(16) >= 8).long()).all()
    head = Head(torch.eye(2), torch.zeros(2))
    assert (head.classes_of(stripes, 16) == found.numpy()).all()


def test_subsets_are_the_same_for_everyone_and_nested():
    few, more = set(rows_of((5, 1), 50)), set(rows_of((20, 1), 50))
    assert len(few) == 5 and few < more and set(rows_of((5, 2), 50)) != few
    assert rows_of(("all", 1), 7).tolist() == list(range(7)) and len(rows_of((99, 0), 7)) == 7


def test_the_error_is_that_of_a_mean_and_groups_are_drawn_whole():
    """Images of equally many pixels: pixel accuracy is a mean over images, whose standard error is known."""
    right = np.random.default_rng(0).integers(20, 80, 40)
    answer = np.stack([np.diag([share, 0]) + np.array([[0, 100 - share], [0, 0]]) for share in right])
    alone = error_of(pixel_accuracy, answer, Masked(answer, answer, np.arange(40)))
    assert alone == pytest.approx(right.std() / 100 / np.sqrt(40), rel=0.15)
    twice = np.concatenate([answer, answer])  # each image twice, as a group: no more is known
    grouped = error_of(pixel_accuracy, twice, Masked(twice, twice, np.tile(np.arange(40), 2)))
    assert grouped == pytest.approx(alone, rel=1e-6)


def test_maps_are_the_encoders_own():
    images = torch.rand(2, 3, 16, 16)
    for settings in (RESNET, VIT, ImageEncoder(backbone="test_convnext", image_size=32)):
        torch.manual_seed(0)
        encoder = build(settings, {"channels": 3, "mean": [0.4] * 3, "std": [0.2] * 3}).eval()
        images = torch.rand(2, 3, settings.image_size, settings.image_size)
        with torch.no_grad():
            wanted = encoder.backbone.forward_features(encoder.normalize(images))
            last, before = encoder.maps(images), encoder.maps(images, -2)
        if settings is VIT:
            wanted = wanted[:, encoder.backbone.num_prefix_tokens :].transpose(1, 2).reshape(last.shape)
            assert before.shape == last.shape
        else:
            assert before.shape[2] == 2 * last.shape[2]
        torch.testing.assert_close(last, wanted)
        with pytest.raises(PipelineError, match="no map of features at stage -50"):
            encoder.maps(images, -50)


def test_patches_hold_the_pixels_under_a_place():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    found = patches(images, (4, 4))
    assert found.shape == (2, 48, 4, 4)
    assert sorted(found[1, :, 2, 3].tolist()) == pytest.approx(sorted((images[1, :, 8:12, 12:] / 255).ravel().tolist()))
    assert patches(images, (16, 16)).shape == (2, 3, 16, 16) and patches(images, (3, 3)).shape == (2, 3, 3, 3)


def test_the_commonest_class(data):
    answer = commonest(data, 3, ("all", 0)).sum(0)
    truth = np.array(data["test"].masks)
    assert (answer[:, 1:] == 0).all() and answer[0, 0] == (truth == 0).sum()
    assert pixel_accuracy(answer) == pytest.approx((truth == 0).sum() / (truth != IGNORED).sum())


def test_training_from_scratch_learns(pack, data, make_recipe):
    recipe = make_recipe(encoder=SMALL_RESNET, pretrain={"device": "cpu"}, evaluations=[])

    def score(steps):
        settings = SETTINGS.model_copy(update={"supervised_steps": steps})
        return miou(supervised(recipe, pack, data, 3, ("all", 0), settings).sum(0))

    assert score(60) > max(score(1) + 0.2, 0.6)


def test_the_pack_has_masks_that_lie_on_their_images(pack):
    assert set(pack.samples("train")) == {"image"}
    for split in COUNTS:
        images, masks = np.array(pack.samples(split)["image"]), np.load(pack.path / f"masks.{split}.npy")
        assert (masks[:, 0] == IGNORED).all()
        red, blue = (images[:, 0] > 150) & (images[:, 2] < 150), images[:, 2] > 150
        inner = np.s_[:, 1:]
        assert (red[inner] == (masks[inner] == 1)).all() and (blue[inner] == (masks[inner] == 2)).all()


def test_the_whole_evaluation(pack, make_recipe, tmp_path):
    recipe = make_recipe(encoder=SMALL_RESNET, pretrain={"device": "cpu"}, evaluations=[])
    encoder = build(RESNET, pack.given)
    save(encoder, RESNET, pack.facts, tmp_path)
    result = own(recipe, pack, encoder, {}, tmp_path, SETTINGS)
    others = segmentation.baselines(recipe, pack, SETTINGS, lambda what: None)
    names = ["random encoder", "raw patches", "colour of the pixel", "commonest class", "supervised"]
    assert list(others) == names
    for metrics in (result.metrics, *others.values()):
        assert set(metrics) == set(SETTINGS.metrics()) and SETTINGS.leading() in metrics
        assert all(0 <= cell["low"] <= cell["mean"] <= cell["high"] <= 1 for cell in metrics.values())
    leading = "segmentation/linear/miou/all"
    assert (
        SETTINGS.leading() == leading and result.metrics[leading]["mean"] > others["commonest class"][leading]["mean"]
    )
    assert others["colour of the pixel"][leading]["mean"] > 0.95
    assert set(result.facts["per_class"]) == set(NAMES) and result.facts["map"] == [8, 8]
    assert "10 test images of 16 pixels, maps of 8 x 8 places" in SETTINGS.caption(result.facts)
    for picture, *what in result.pictures.values():
        assert Image.open(io.BytesIO(getattr(pictures, picture)(*what))).width > 300
    json.dumps([result.metrics, result.facts])
    shown = {row["probe"]: set(row["shots"]) for row in table_rows("x", "y", result.metrics)}
    assert shown == {"mIoU": {"4", "all"}, "pixel accuracy": {"4", "all"}}
    assert result.metrics == own(recipe, pack, encoder, {}, tmp_path, SETTINGS).metrics


def test_a_dataset_without_masks_says_so(digits_pack, pack, tmp_path):
    with pytest.raises(PipelineError, match="the dataset has no masks, which segmentation needs"):
        masked(digits_pack)
    shutil.copytree(pack.path, tmp_path / "pack")
    np.save(tmp_path / "pack" / "masks.test.npy", np.full((10, SIDE, SIDE), IGNORED, np.uint8))
    with pytest.raises(PipelineError, match="no pixel of the test split has a class"):
        masked(Pack(tmp_path / "pack", pack.facts))


def test_groups_are_those_of_the_index(pack, tmp_path):
    shutil.copytree(pack.path, tmp_path / "pack")
    path = tmp_path / "pack" / "test.parquet"
    index = pd.read_parquet(path)
    index["group"] = [f"patient {n // 5}" for n in range(10)]
    index.to_parquet(path)
    assert masked(Pack(tmp_path / "pack", pack.facts))[0]["test"].groups.tolist() == [0] * 5 + [1] * 5


def test_settings_that_say_a_count_twice_are_refused():
    with pytest.raises(ValidationError, match="names a count twice"):
        Segmentation(images=(10, 10))
    with pytest.raises(ValidationError):
        Segmentation(images=(0,))


@pytest.mark.slow
def test_from_a_folder_to_a_registered_model(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path / "project")
    for number in range(60):
        for part, content in zip(("images", "masks"), scene(number, 24), strict=True):
            path = project.root / "scenes" / part / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    source = {"kind": "masks", "path": "scenes", "classes": NAMES, "ignore": 200}
    dataset = Dataset.model_validate({"name": "tiny", "source": source})
    settings = SETTINGS.model_dump(mode="json")
    recipe = make_recipe("inpainting", evaluations=[settings], promote=None, pretrain={"batch_size": 10, "epochs": 15})
    done = chain.run_recipe(recipe, dataset, project, say=lambda line: None)
    summary = done["segmentation"].summary
    assert set(recipe.evaluations[0].metrics()) == set(summary["metrics"]) and summary["baselines"]["commonest class"]
    assert (done["segmentation"].path / "segmentations.png").stat().st_size > 1000
    assert "segmentation" in (done["registered_model"].path / "model_card.md").read_text()
    plain = Dataset.model_validate({"name": "tiny", "source": {"kind": "image_folder", "path": "scenes/images"}})
    chain.dataset(project, plain, lambda line: None)
    with pytest.raises(PipelineError, match="its images have no masks, which segmentation needs"):
        chain.pretext_labels(project, recipe)
