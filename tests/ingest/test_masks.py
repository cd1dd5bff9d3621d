"""Images with masks: the same from a folder and an archive; what is wrong with a mask costs its image alone, with the reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ssl_pipeline.ingest.image_masks import IGNORED, ImageMasks, class_ids, mask_square
from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.masks import counterpart, read
from ssl_pipeline.ingest.source_masks import Masks
from ssl_pipeline.part import PipelineError
from tests.ingest.conftest import archived

WIDTH, HEIGHT = 12, 10  # of the pictures of conftest
CLASSES = ("sky", "tree", "road")


def drawn(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (height, width), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def mask_png(seed: int, **size: int) -> bytes:
    """Grey or with a palette, by turns."""
    image = Image.fromarray(drawn(seed, **size))
    if seed % 2:
        image.putpalette([0, 0, 255, 0, 255, 0, 90, 90, 90])
    return saved(image)


@pytest.fixture
def masked(tmp_path: Path, png) -> Path:
    folder = tmp_path / "masked"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed in range(30):
        (folder / "images" / f"{seed:02d}.png").write_bytes(png(seed))
        (folder / "masks" / f"{seed:02d}.png").write_bytes(mask_png(seed))
    return folder


def shuffled(folder: Path, kind: str) -> Path:
    """Forwards only, and masks in another order than images."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    files.sort(key=lambda file: (file.parent.name == "images", file.name[::-1]))
    return archived(folder, kind, files[::-1] if kind == "tar.gz" else files)


def source(path: Path, **more) -> dict:
    return {"kind": "masks", "path": str(path), "classes": CLASSES} | more


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_every_image_has_its_mask_wherever_they_lie(masked, kind, ingest, samples, png):
    stage = ingest(source(masked if kind == "folder" else shuffled(masked, kind)))
    rows = {row["sample_id"]: row for row in samples(stage).values()}
    plain = samples(ingest({"kind": "image_folder", "path": str(masked / "images")}))
    assert {k: row["split"] for k, row in rows.items()} == {row["sample_id"]: row["split"] for row in plain.values()}
    for seed in range(30):
        row = rows[ImageMasks().read(png(seed), {"mask": of(mask_png(seed))}).identity]
        assert row["image"]["bytes"] == png(seed)
        assert (class_ids(row["mask"]["bytes"], 3, None) == drawn(seed)).all()
    assert stage.summary["masks"] == {"classes": list(CLASSES), "images_with": [30, 30, 30], "ignore": None}
    assert stage.summary["modality"] == "image" and stage.summary["sizes"]["max"] == [HEIGHT, WIDTH]


def of(data: bytes, **more):
    from ssl_pipeline.ingest.image_masks import Mask

    return Mask(lambda: data, CLASSES, **more)


def test_a_bad_mask_costs_its_image_alone(masked, ingest, quarantined):
    masks, turned = masked / "masks", Image.fromarray(drawn(1, HEIGHT, WIDTH))
    (masks / "00.png").unlink()
    (masks / "01.png").write_bytes(saved(turned))
    (masks / "02.png").write_bytes(saved(Image.fromarray(drawn(2) + 1)))
    (masks / "03.png").write_bytes(mask_png(3)[:-30])
    (masks / "04.png").write_bytes(saved(Image.fromarray(drawn(4)).convert("RGB")))
    (masks / "05.png").write_bytes(saved(Image.fromarray(drawn(5)).convert("LA")))
    (masks / "06.png").write_bytes(b"")
    (masks / "07.png").write_bytes(saved(Image.fromarray(drawn(7)), "JPEG"))
    (masks / "08.tif").write_bytes(saved(Image.fromarray(drawn(8)), "TIFF"))
    (masked / "images" / "09.png").write_bytes(b"\x89PNG nothing")
    (masks / "10.png").write_bytes(mask_png(10)[:33] + b"\0" * 40)
    (masks / "11.png").write_bytes(saved(Image.fromarray(drawn(11).astype(np.uint16) * 1000)))
    (masked / "images" / "12.jpg").write_bytes((masked / "images" / "13.png").read_bytes())
    (masked / "images" / "12.jpg").rename(masked / "images" / "12.png.jpg")
    (masks / "alone.png").write_bytes(mask_png(1))
    stage = ingest(source(masked), max_quarantined=0.5)
    found = {name.removeprefix("images/"): reason for name, reason in quarantined(stage).items()}
    assert found.pop("03.png").startswith("damaged mask: ") and found.pop("10.png").startswith("damaged mask: ")
    assert found.pop("09.png").startswith("damaged")
    assert found == {
        "00.png": "no mask", "01.png": "mask of another size: 10x12, the image has 12x10",
        "02.png": "mask with unknown values: 3; there are 3 classes, from 0",
        "04.png": "mask in colours: a pixel must be one number, in a grey PNG or one with a palette",
        "05.png": "mask in colours: a pixel must be one number, in a grey PNG or one with a palette",
        "06.png": "mask is no PNG", "07.png": "mask is no PNG", "08.png": "several masks of that name: 2",
        "11.png": "mask with unknown values: 1000, 2000; there are 3 classes, from 0", "12.png.jpg": "no mask",
    }  # fmt: skip
    assert stage.summary["notes"] == ["1 masks without an image were passed over"]
    assert stage.summary["samples"] == 18 and stage.summary["reasons"]["mask in colours"] == 2


def test_two_images_of_one_name_and_a_link_out(masked, ingest, quarantined, png, tmp_path):
    (masked / "images" / "04.jpg").write_bytes(png(77))
    (tmp_path / "secret.png").write_bytes(mask_png(6))
    (masked / "masks" / "06.png").unlink()
    (masked / "masks" / "06.png").symlink_to(tmp_path / "secret.png")
    assert quarantined(ingest(source(masked))) == {
        "images/04.png": "another image of that name", "images/06.png": "damaged mask: link out of the folder"
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["1", "L1", "L2", "L4", "P1", "P2", "P4", "P8"])
def test_values_are_read_at_any_depth(mode):
    """Pillow spreads grey of few bits over 0..255; a class is what the file says."""
    ids = drawn(0) % 2 if mode in ("1", "L1", "P1") else drawn(0)
    if mode.startswith("L"):
        data = grey_png(ids, int(mode[1]))
    else:
        image = Image.fromarray(ids)
        if mode == "1":
            data = saved(Image.fromarray(ids.astype(bool)))
        else:
            image.putpalette(list(range(9)))
            data = saved(image, bits=int(mode[1]))
    assert (class_ids(data, 3, None) == ids).all()


def grey_png(ids: np.ndarray, bits: int) -> bytes:
    """As the specification has it, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = ids.shape
    spread = np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(height, width * bits)
    lines = b"".join(b"\0" + line.tobytes() for line in np.packbits(spread, axis=1))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_what_is_ignored_is_no_class():
    ids = drawn(0)
    ids[:2] = 200
    data = saved(Image.fromarray(ids))
    assert (class_ids(data, 3, 200) == np.where(ids == 200, IGNORED, ids)).all()
    assert (class_ids(saved(Image.fromarray(drawn(0))), 3, 0) == np.where(drawn(0) == 0, IGNORED, drawn(0))).all()
    with pytest.raises(BadSample, match="mask with unknown values: 200"):
        class_ids(data, 3, 255)


@pytest.mark.parametrize(("width", "height", "side"), [(12, 10, 10), (40, 64, 16), (30, 30, 48), (101, 67, 32)])
def test_masks_are_resized_as_images_are(width, height, side):
    """Each pixel has the class of the source's pixel under its middle; and a picture of the classes lies on them."""
    ids = drawn(0, width, height)
    short = min(width, height)
    middle = [int(first + (np.float64(i) + 0.5) * short / side) for first in [0] for i in range(side)]
    top, left = (height - short) // 2, (width - short) // 2
    wanted = ids[np.ix_([top + at for at in middle], [left + at for at in middle])]
    assert (mask_square(ids, side) == wanted).all()
    halves = (np.indices((height, width)).sum(0) > (height + width) / 2).astype(np.uint8)
    seen = to_square(decode(saved(Image.fromarray(halves * 255))), side, 1)[0]
    apart = (seen > 127) != (mask_square(halves, side) == 1)
    assert apart.mean() < 0.02 and not apart[(seen < 20) | (seen > 235)].any()


def test_folders_name_splits_above_and_below(tmp_path, png, ingest, samples):
    for order in ("{split}/{part}", "{part}/{split}"):
        folder = tmp_path / order[1]
        for seed in range(12):
            split = ("train", "train", "val", "test")[seed % 4]
            for part, data in (("images", png(seed)), ("masks", mask_png(seed))):
                path = folder / order.format(split=split, part=part) / f"{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        found = {Path(name).stem: row["split"] for name, row in samples(ingest(source(folder))).items()}
        assert found == {str(seed): ("train", "train", "validation", "test")[seed % 4] for seed in range(12)}


def test_lists_decide_the_splits_and_cannot_overlap(masked, ingest, samples, quarantined):
    lists = {"train": range(0, 14), "validation": range(14, 18), "test": range(18, 28)}
    said = source(masked)
    for split, seeds in lists.items():
        (masked / f"{split}.txt").write_text("".join(f"images/{seed:02d}.png\n" for seed in seeds))
        said[split] = f"{split}.txt"
    with open(masked / "test.txt", "a") as file:
        file.write("99\n")
    stage = ingest(said)
    assert {row["source"]: row["split"] for row in samples(stage).values()} == {
        f"images/{seed:02d}.png": split for split, seeds in lists.items() for seed in seeds
    }
    assert quarantined(stage) == {"99": "no image file"}
    assert stage.summary["notes"][0] == "2 images that no list names were passed over"
    (masked / "test.txt").write_text("18\n03\n")
    with pytest.raises(PipelineError, match="03 stands in train and in test"):
        ingest(said)
    with pytest.raises(PipelineError, match=r"has no file no.txt"):
        ingest(source(masked, test="no.txt"))


def test_a_pattern_names_groups_and_another_one_pairs(tmp_path, png, ingest, samples):
    folder = tmp_path / "flat"
    folder.mkdir()
    for seed in range(30):
        (folder / f"p{seed // 3}_{seed:02d}.png").write_bytes(png(seed))
        (folder / f"p{seed // 3}_{seed:02d}_mask.png").write_bytes(mask_png(seed))
    (folder / "notes.txt").write_text("x")
    rows = samples(ingest(source(folder, images="*.png", masks="*_mask.png", pattern=r"(?P<group>p\d+)_")))
    assert len(rows) == 30 and not any("mask" in name for name in rows)
    splits: dict[str, set[str]] = {}
    for name, row in rows.items():
        splits.setdefault(row["group"], set()).add(row["split"])
        assert (class_ids(row["mask"]["bytes"], 3, None) == drawn(int(name[-6:-4]))).all()
    assert len(splits) == 10 and all(len(split) == 1 for split in splits.values())


def test_counterparts():
    images, masks = counterpart("leftImg8bit/*_leftImg8bit.png"), counterpart("gtFine/*_gtFine_labelIds.png")
    assert images("leftImg8bit/train/aachen/a_0_leftImg8bit.png") == "train/aachen/a_0"
    assert masks("gtFine/train/aachen/a_0_gtFine_labelIds.png") == "train/aachen/a_0"
    assert images("gtFine/train/aachen/a_0_gtFine_labelIds.png") is None
    assert counterpart("images")("my_images/a.png") is None and counterpart("images")("images/a.txt") is None
    assert counterpart("a.b/c")("x/a.b/c/d/e.f.JPG") == "x/d/e.f"


@pytest.mark.parametrize(("more", "message"), [
    ({"images": "../x"}, "leads out of the source"), ({"train": "/x"}, "leads out of the source"),
    ({"train": "x", "test": "x"}, "named for two splits"), ({"masks": "images"}, "both 'images'"),
    ({"classes": ["a"]}, "at least 2"), ({"classes": ["a", "a"]}, "'a' twice"), ({"ignore": 256}, "less than or equal"),
    ({"pattern": "(?P<x>a)"}, "name a part"),
])  # fmt: skip
def test_a_source_that_contradicts_itself_is_refused(more, message):
    with pytest.raises(ValidationError, match=message):
        Masks.model_validate(source(Path("x")) | more)


def test_a_source_without_masks_or_images_says_where_they_were_looked_for(masked):
    with pytest.raises(PipelineError, match="holds no masks in a folder labels: say in masks where they are"):
        read(Masks(path=".", classes=CLASSES, masks="labels"), masked)
    with pytest.raises(PipelineError, match=r"holds no images named \*_rgb.png"):
        read(Masks(path=".", classes=CLASSES, images="*_rgb.png"), masked)


def test_shards_open_with_datasets(masked, ingest):
    import datasets

    stage = ingest(source(masked))
    path = str(stage.path / "tree" / "train-00000.parquet")
    row = datasets.Dataset.from_parquet(path, cache_dir=str(masked / "cache"))[0]
    assert row["image"].size == row["mask"].size == (WIDTH, HEIGHT)
