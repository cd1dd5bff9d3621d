"""AP against pycocotools, boxes against pixels, weights against the encoder's, and the whole evaluation on squares in noise."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError
from scipy import stats

from ssl_pipeline.encoders.encoder import build, save
from ssl_pipeline.encoders.settings import ImageEncoder
from ssl_pipeline.evaluate import detection
from ssl_pipeline.evaluate.detection import Annotated, average_precision, crop, crops, interval, own, splits_of, truths
from ssl_pipeline.evaluate.detector import Pyramid, SimpleFeaturePyramid, detector, network_of
from ssl_pipeline.evaluate.settings_detection import Detection
from ssl_pipeline.ingest.image_objects import ImageObjects
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing import image
from ssl_pipeline.report import pictures
from tests.conftest import SMALL_RESNET

SIDE = 48
COUNTS = {"train": 24, "validation": 4, "test": 12}
SETTINGS = Detection(image_size=SIDE, steps=60, batch_size=4, pyramid_dim=16, learning_rate=3e-3)
RESNET = ImageEncoder.model_validate(SMALL_RESNET)
VIT = ImageEncoder(backbone="test_vit", image_size=16, options={"patch_size": 8})


def scene(number: int, width: int = SIDE, height: int = SIDE):
    """Noise with up to three squares, red or blue, and their boxes; every fourth image holds none."""
    random = np.random.default_rng(number)
    pixels, objects = random.integers(0, 90, (height, width, 3), np.uint8), []
    for _ in range(number % 4):
        side = int(random.integers(10, 20))
        left, top = int(random.integers(0, width - side)), int(random.integers(0, height - side))
        label = ("red", "blue")[random.integers(2)]
        pixels[top : top + side, left : left + side] = (230, 20, 20) if label == "red" else (20, 20, 230)
        objects.append({"label": label, "box": [left, top, left + side, top + side], "ignored": False})
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), objects


@pytest.fixture(autouse=True)
def few_crops(monkeypatch):
    monkeypatch.setattr(detection, "NORM_CROPS", 16)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "tree").mkdir()
    medium, number = ImageObjects(), 0
    with Shards(folder / "tree", medium) as shards:
        for split, count in COUNTS.items():
            for _ in range(count):
                data, objects = scene(number)
                sample = medium.read(data, {"objects": objects})
                about = {"sample_id": sample.identity, "label": None, "group": None, "source": str(number)}
                shards.add(split, about | sample.columns)
                number += 1
    about = {"channels": 3, "splits": COUNTS, "objects": {}}
    (folder / "tree" / "dataset.json").write_text(json.dumps(about))
    (folder / "pack").mkdir()
    return Pack(folder / "pack", image.write(folder / "tree", folder / "pack", RESNET))


def random_boxes(random, count, classes=2, side=100.0):
    start, size = random.uniform(0, side / 2, (count, 2)), random.uniform(4, side / 2, (count, 2))
    boxes = np.concatenate([start, start + size], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(random.integers(1, classes + 1, count))


def case(images=12, seed=0, noise=4.0):
    """Truths, of which some are crowds, and what was found: near them, beside them, and at random."""
    random, true, found = np.random.default_rng(seed), [], []
    for number in range(images):
        boxes, labels = random_boxes(random, number % 5)
        crowd = torch.from_numpy((random.random(len(boxes)) < 0.2).astype(np.int64))
        true.append({"boxes": boxes, "labels": labels, "iscrowd": crowd})
        near = boxes + torch.from_numpy(random.normal(0, noise, boxes.shape).astype(np.float32))
        more, others = random_boxes(random, 3)
        scores = torch.from_numpy(random.permutation(len(boxes) + 3).astype(np.float32) + 1) / (len(boxes) + 4)
        found.append({"boxes": torch.cat([near, more]), "labels": torch.cat([labels, others]), "scores": scores})
    return found, true


def by_pycocotools(found, true):
    """AP, AP50, AP75 and AP a class of the two, without torchmetrics."""

    def wide(box):
        left, top, right, bottom = (float(edge) for edge in box)
        return [left, top, right - left, bottom - top]

    annotations, results = [], []
    for image_id, (what, truth) in enumerate(zip(found, true, strict=True), 1):
        for box, label, crowd in zip(truth["boxes"], truth["labels"], truth["iscrowd"], strict=True):
            area = wide(box)[2] * wide(box)[3]
            one = {
                "image_id": image_id,
                "category_id": int(label),
                "bbox": wide(box),
                "area": area,
                "iscrowd": int(crowd),
            }
            annotations.append(one | {"id": len(annotations) + 1})
        for box, label, score in zip(what["boxes"], what["labels"], what["scores"], strict=True):
            results.append({"image_id": image_id, "category_id": int(label), "bbox": wide(box), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        categories = [{"id": 1}, {"id": 2}]
        truth_set.dataset = {
            "images": [{"id": n + 1} for n in range(len(true))], "annotations": annotations, "categories": categories
        }  # fmt: skip
        truth_set.createIndex()
        judge = COCOeval(truth_set, truth_set.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][:, :, :, 0, 2]  # [overlaps, recalls, classes]
    return [*judge.stats[:3], *(precision[:, :, k][precision[:, :, k] > -1].mean() for k in range(2))]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_what_pycocotools_says(seed):
    found, true = case(seed=seed)
    scores, wanted = average_precision(found, true, ["a", "b"]), by_pycocotools(found, true)
    assert [scores[name] for name in ("ap", "ap50", "ap75", "class a", "class b")] == pytest.approx(wanted, abs=1e-6)
    assert 0.05 < wanted[0] < wanted[1] < 0.95


def test_recalls_of_whole_hundredths_are_reached():
    """Three of five trees found, before anything wrong: the 61 recalls from 0 to 0.6, of which 32 bits would miss the last."""
    boxes = torch.tensor([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(5)])
    true = [{"boxes": boxes, "labels": torch.ones(5, dtype=torch.int64), "iscrowd": torch.zeros(5, dtype=torch.int64)}]
    found = [{"boxes": boxes[:3], "labels": true[0]["labels"][:3], "scores": torch.tensor([0.9, 0.8, 0.7])}]
    scores = average_precision(found, true, ["tree"])
    assert scores["ap"] == scores["ap50"] == scores["ap75"] == pytest.approx(61 / 101)


def test_a_hand_made_case():
    """Two trees; one is found exactly, a better score stands beside it: precision 1/2 at recall 1/2, and nothing beyond."""
    true = [{"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), "labels": torch.tensor([1, 1])}]
    boxes = torch.tensor([[50.0, 50, 60, 60], [0, 0, 10, 10]])
    found = [{"boxes": boxes, "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.9, 0.8])}]
    assert average_precision(found, true, ["tree"])["ap"] == pytest.approx(0.5 * 51 / 101)


def test_the_truth_scores_one_chance_scores_nothing_and_crowds_do_not_count():
    _, true = case(40)
    perfect = [{**one, "scores": torch.ones(len(one["labels"]))} for one in true]
    scores = average_precision(perfect, true, ["a", "b"])
    assert scores["ap"] == scores["ap50"] == scores["ap75"] == pytest.approx(1)
    alone = [{name: value[one["iscrowd"] == 0] for name, value in one.items()} for one in perfect]
    assert average_precision(alone, true, ["a", "b"])["ap"] == pytest.approx(1)
    random = np.random.default_rng(1)
    guesses = []
    for _ in true:
        boxes, labels = random_boxes(random, 20)
        guesses.append(
            {"boxes": boxes, "labels": labels, "scores": torch.from_numpy(random.random(20).astype(np.float32))}
        )
    assert average_precision(guesses, true, ["a", "b"])["ap"] < 0.02
    nothing = [{name: value[:0] for name, value in one.items()} for one in perfect]
    assert average_precision(nothing, true, ["a", "b"])["ap"] == 0


def encoder_of(settings, seed=0):
    torch.manual_seed(seed)
    return build(settings, {"channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2]}).eval()


def test_the_network_is_the_encoders_own():
    """Its maps are those that the encoder computes, at its own size and with the detector's normalisation."""
    images = torch.rand(2, 3, 16, 16)
    for settings in (RESNET, VIT):
        encoder = encoder_of(settings)
        model = detector(encoder, settings, 2, SETTINGS).eval()
        backbone = model.backbone
        normalized = model.transform(list(images))[0].tensors[:, :, :16, :16]
        torch.testing.assert_close(normalized, encoder.normalize(images))
        with torch.no_grad():
            last, wanted = backbone.maps(normalized)[-1], encoder.backbone.forward_features(encoder.normalize(images))
        if settings is VIT:
            tokens = wanted[:, encoder.backbone.num_prefix_tokens :]
            wanted = tokens.transpose(1, 2).reshape(2, -1, 2, 2)
        torch.testing.assert_close(last, wanted)
        ours = dict(encoder.backbone.named_parameters())
        theirs = dict(backbone.network.named_parameters())
        assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
        assert not any(ours[name] is theirs[name] for name in ours)


def test_weights_of_another_network_are_refused():
    with pytest.raises(RuntimeError, match="Missing key|Unexpected key|size mismatch"):
        network_of(encoder_of(VIT), VIT.model_copy(update={"options": {"patch_size": 4}}))


@pytest.mark.parametrize(("settings", "strides"), [
    (RESNET, [4, 8]), (RESNET.model_copy(update={"stem": "default"}), [4, 8, 16, 32]), (VIT, [4, 8, 16]),
    (ImageEncoder(backbone="test_vit", image_size=32, options={"patch_size": 16}), [4, 8, 16, 32]),
    (ImageEncoder(backbone="test_convnext", image_size=64, stem="default"), [4, 8, 16, 32]),
])  # fmt: skip
def test_maps_have_the_strides_that_they_say(settings, strides):
    pyramid = Pyramid(network_of(encoder_of(settings), settings), 3, 24, frozen=False).eval()
    assert pyramid.strides == strides
    with torch.no_grad():
        maps = pyramid(torch.rand(1, 3, 128, 192))
    assert [tuple(one.shape) for one in maps.values()] == [
        (1, 24, 128 // stride, 192 // stride) for stride in [*strides, 2 * strides[-1]]
    ]
    assert isinstance(pyramid.neck, SimpleFeaturePyramid) == ("vit" in settings.backbone)


def test_a_network_whose_steps_are_no_powers_of_two_is_refused():
    settings = ImageEncoder(backbone="test_vit", image_size=28, options={"patch_size": 14})
    with pytest.raises(PipelineError, match="powers of two"):
        detector(encoder_of(settings), settings, 1, SETTINGS)


def test_boxes_stay_on_their_pixels(pack):
    """Whatever is resized, cropped or mirrored: inside a box is its square, outside none."""
    train, _, names = splits_of(pack, 3)
    assert names == ["blue", "red"]
    random, seen = np.random.default_rng(0), 0
    for row in range(1, COUNTS["train"], 4):  # those with one square
        for shorter, coin in ((SIDE, 0.9), (2 * SIDE, 0.1)):
            picture, kept = crop(*train.at(row, shorter), 40, (*random.random(2), coin), flip=True)
            assert picture.shape == (3, 40, 40)
            for box, label in zip(kept["boxes"].round().int().tolist(), kept["labels"].tolist(), strict=True):
                left, top, right, bottom = box
                colour = picture[2 if names[label - 1] == "blue" else 0]
                assert colour[top + 2 : bottom - 2, left + 2 : right - 2].min() > 0.7
                outside = picture.clone()
                outside[:, max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = 0
                assert outside.max() < 0.6
                seen += 1
    assert seen > 5


def test_crops_keep_what_is_seen_and_leave_out_crowds():
    pixels = np.zeros((3, 40, 80), np.uint8)
    boxes = torch.tensor([[0.0, 0, 10, 10], [35, 5, 45, 15], [38, 5, 60, 15], [2, 2, 9, 9]])
    objects = {"boxes": boxes, "labels": torch.tensor([1, 2, 3, 4]), "iscrowd": torch.tensor([0, 0, 0, 1])}
    picture, kept = crop(pixels, objects, 40, (0.0, 0.0, 0.9), flip=True)
    assert kept["labels"].tolist() == [1, 2] and kept["boxes"].tolist() == [[0, 0, 10, 10], [35, 5, 40, 15]]
    _, mirrored = crop(pixels, objects, 40, (0.0, 0.0, 0.1), flip=True)
    assert mirrored["boxes"].tolist() == [[30, 0, 40, 10], [0, 5, 5, 15]]
    _, last = crop(pixels, objects, 40, (0.9999, 0.5, 0.1), flip=False)
    assert last["boxes"].tolist() == [[0, 5, 5, 15], [0, 5, 20, 15]] and last["labels"].tolist() == [2, 3]
    small, nothing = crop(pixels[:, :20, :30], {k: v[:0] for k, v in objects.items()}, 40, (0.5, 0.5, 0.1), flip=True)
    assert small.shape == (3, 20, 30) and nothing["boxes"].shape == (0, 4) and picture.shape == (3, 40, 40)


def test_long_images_are_made_smaller_as_a_whole(pack, tmp_path):
    train = Annotated(pack, "train", 3)
    train.code = {"red": 1, "blue": 2}
    data, objects = scene(3, width=600, height=50)
    (tmp_path / "x").write_bytes(data)
    train.path, train.ends, train.objects = tmp_path / "x", [len(data)], [objects]
    pixels, found = train.at(0, 40)
    assert pixels.shape == (3, 13, 160)
    wanted = torch.tensor([one["box"] for one in objects]) * torch.tensor([160 / 600, 13 / 50] * 2)
    torch.testing.assert_close(found["boxes"], wanted)


def test_an_epoch_shows_every_image_once(pack):
    train, _, _ = splits_of(pack, 3)
    with ThreadPoolExecutor(2) as pool:
        batches = crops(train, SETTINGS.model_copy(update={"flip": False}), np.random.default_rng(0), pool)
        shown = [image for _ in range(6) for image in next(batches)[0]]
    assert len({tuple(image.flatten()[:60].tolist()) for image in shown}) == COUNTS["train"]


def test_it_learns_to_find_squares_the_same_for_the_same_seed(pack):
    encoder = encoder_of(RESNET)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    train, test, names = splits_of(pack, 3)

    def ap50(steps, seed=0, **more):
        settings = SETTINGS.model_copy(update={"steps": steps} | more)
        found = detection.detections(encoder, RESNET, train, test, 2, settings, seed, "cpu")
        return found, average_precision(found, truths(test, settings), names)["ap50"]

    untrained, chance = ap50(1)
    found, learnt = ap50(80)
    assert chance < 0.1 < 0.25 < learnt, (chance, learnt)
    again, _ = ap50(1)
    other, _ = ap50(1, seed=1)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(untrained, again, strict=True))
    assert not all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(untrained, other, strict=True))
    assert all((encoder.state_dict()[name] == value).all() for name, value in before.items())
    assert set(found[0]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("head", ["retinanet", "fcos"])
def test_one_stage_detectors_learn_too(pack, head):
    train, test, names = splits_of(pack, 3)
    settings = SETTINGS.model_copy(update={"head": head, "pyramid_dim": 32, "steps": 120})
    found = detection.detections(encoder_of(RESNET), RESNET, train, test, 2, settings, 0, "cpu")
    assert set(found[0]) == {"boxes", "labels", "scores"} and {1, 2} >= set(found[0]["labels"].tolist())
    assert average_precision(found, truths(test, settings), names)["ap50"] > 0.15
    with pytest.raises(ValidationError, match="normalised in 32 groups: use 64"):
        Detection(head=head, pyramid_dim=50)


def test_a_frozen_network_keeps_its_weights(pack):
    train, _, _ = splits_of(pack, 3)
    settings = SETTINGS.model_copy(update={"frozen": True, "steps": 3})
    model = detector(encoder_of(RESNET), RESNET, 2, settings)
    with ThreadPoolExecutor(2) as pool:
        detection.measure_norms(model, crops(train, SETTINGS, np.random.default_rng(0), pool))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        detection.train_detector(model, crops(train, settings, np.random.default_rng(0), pool), settings)
    moved = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert moved and not any(name.startswith("backbone.network") for name in moved)
    fresh = encoder_of(RESNET).backbone.bn1.running_mean
    assert (before["backbone.network.bn1.running_mean"] != fresh).any()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_whole_evaluation(pack, make_recipe, tmp_path, frozen):
    settings = SETTINGS.model_copy(update={"steps": 2, "frozen": frozen})
    recipe = make_recipe(encoder=SMALL_RESNET, pretrain={"device": "cpu"}, evaluations=[])
    encoder = build(RESNET, pack.given)
    save(encoder, RESNET, pack.facts, tmp_path)
    result = own(recipe, pack, encoder, {}, tmp_path, settings)
    others = detection.baselines(recipe, pack, settings, lambda what: None)
    assert list(others) == (["random encoder", "supervised"] if frozen else ["random encoder"])
    for metrics in (result.metrics, others["random encoder"]):
        assert list(metrics) == settings.metrics() and settings.leading() in metrics
        assert all(0 <= cell["low"] <= cell["mean"] <= cell["high"] <= 1 for cell in metrics.values())
    assert f"detection/{'frozen' if frozen else 'fine_tuned'}/ap50/all" == settings.leading()
    assert set(result.facts["per_class"]) == {"red", "blue"} and result.facts["test_samples"] == 12
    assert f"{result.facts['test_objects']} objects in 12 test images" in settings.caption(result.facts)
    for picture, *what in result.pictures.values():
        assert Image.open(io.BytesIO(getattr(pictures, picture)(*what))).width > 300
    json.dumps([result.metrics, result.facts])


def test_a_dataset_without_boxes_says_so(digits_pack, pack, tmp_path):
    with pytest.raises(PipelineError, match="the dataset has no boxes, which detection needs"):
        splits_of(digits_pack, 1)
    shutil.copytree(pack.path, tmp_path / "pack")
    path = tmp_path / "pack" / "train.objects.parquet"
    table = pq.read_table(path)
    empty = pa.array([[]] * len(table), table.schema.field("objects").type)
    pq.write_table(table.set_column(3, "objects", empty), path)
    with pytest.raises(PipelineError, match="no objects in the train split"):
        splits_of(Pack(tmp_path / "pack", pack.facts), 3)


def test_the_interval_is_students():
    values = [0.3, 0.5, 0.4]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx({"mean": 0.4, "low": max(0, low), "high": high})


def test_only_packs_with_boxes_hold_originals(pack, tmp_path: Path):
    assert {p.name for p in pack.path.iterdir()} == {
        f"{split}.{what}" for split in COUNTS for what in ("image.npy", "parquet", "objects.parquet", "originals")
    }
    assert set(pack.samples("train")) == {"image"} and len(pack.samples("test")["image"]) == 12
    number = 0
    for split, count in COUNTS.items():
        stored = Annotated(pack, split, 3)
        stored.code = {"red": 1, "blue": 2}
        for row in range(count):
            data, objects = scene(number)
            start = stored.ends[row - 1] if row else 0
            assert stored.file[start : stored.ends[row]] == data
            assert [one["box"] for one in stored.objects[row]] == [one["box"] for one in objects]
            number += 1
