"""COCO and VOC: one set of boxes in both forms gives one dataset; what is wrong with either is quarantined or said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from ssl_pipeline.ingest.image_objects import Annotation, ImageObjects, inside, tidy
from ssl_pipeline.ingest.item import BadSample
from ssl_pipeline.ingest.objects import read
from ssl_pipeline.ingest.objects_voc import names_in, tree
from ssl_pipeline.ingest.source_objects import Coco, Voc
from ssl_pipeline.part import PipelineError
from tests.conftest import repository_data
from tests.ingest.conftest import archived

WIDTH, HEIGHT = 12, 10  # of the pictures of conftest
BOXES: dict[int, list[tuple[str, list[int], bool]]] = {
    seed: [("cat", [1, 2, 5, 9], False)] * (seed % 3 > 0) + [("dog", [0, 0, 12, 10], seed % 2 == 1)] * (seed % 3 > 1)
    for seed in range(30)
}
"""Of each picture by its seed: class, edges, and whether it is a crowd or difficult."""


def voc_xml(
    name: str, boxes: Any, size: tuple[int, int] = (WIDTH, HEIGHT), first_pixel: int = 1, more: str = ""
) -> str:
    objects = "".join(
        f"<object><name>{label}</name><difficult>{int(ignored)}</difficult><bndbox><xmin>{x0 + first_pixel}</xmin>"
        f"<ymin>{y0 + first_pixel}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, (x0, y0, x1, y1), ignored in boxes
    )
    width, height = size
    return (
        f"<annotation><filename>{name}</filename>{more}<size><width>{width}</width><height>{height}</height></size>"
        f"{objects}</annotation>"
    )


def coco_json(boxes: dict[int, Any], **more: Any) -> dict[str, Any]:
    annotations = [
        {"image_id": seed, "category_id": {"cat": 3, "dog": 7}[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(ignored)}
        for seed, objects in boxes.items()
        for label, (x0, y0, x1, y1), ignored in objects
    ]  # fmt: skip
    images = [{"id": seed, "file_name": f"{seed:02d}.png", "width": WIDTH, "height": HEIGHT} | more for seed in boxes]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


@pytest.fixture
def both(tmp_path: Path, png) -> tuple[Path, Path]:
    """The folders of a COCO and of a VOC dataset with the same pictures and boxes."""
    coco, voc = tmp_path / "coco", tmp_path / "voc"
    for folder in (coco / "images", coco / "annotations", voc / "JPEGImages", voc / "Annotations", voc / "ImageSets"):
        folder.mkdir(parents=True)
    for seed, boxes in BOXES.items():
        for folder in (coco / "images", voc / "JPEGImages"):
            (folder / f"{seed:02d}.png").write_bytes(png(seed))
        (voc / "Annotations" / f"{seed:02d}.xml").write_text(voc_xml(f"{seed:02d}.png", boxes))
    (coco / "annotations" / "instances.json").write_text(json.dumps(coco_json(BOXES)))
    return coco, voc


def objects_in(samples: dict[str, Any]) -> dict[str, Any]:
    return {
        row["sample_id"]: (row["split"], [(o["label"], o["box"], o["ignored"]) for o in row["objects"]])
        for row in samples.values()
    }


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_the_same_boxes_in_either_form_are_the_same_samples(both, kind, ingest, samples, png):
    coco, voc = both if kind == "folder" else (archived(folder, kind) for folder in both)
    found = [objects_in(samples(ingest({"kind": k, "path": str(p)}))) for k, p in (("coco", coco), ("voc", voc))]
    assert found[0] == found[1] and len(found[0]) == 30
    medium = ImageObjects()
    for seed, boxes in BOXES.items():
        identity = medium.read(png(seed), {"objects": []}).identity
        wanted = [(label, [float(edge) for edge in box], ignored) for label, box, ignored in boxes]
        assert found[0][identity][1] == wanted


def test_pixels_alone_decide_the_split_and_what_is_a_repeat(both, ingest, samples, quarantined):
    coco, voc = both
    plain = ingest({"kind": "image_folder", "path": str(coco / "images")})
    boxed = ingest({"kind": "coco", "path": str(coco)})
    assert {k: v[0] for k, v in objects_in(samples(boxed)).items()} == {
        row["sample_id"]: row["split"] for row in samples(plain).values()
    }
    (voc / "JPEGImages" / "again.png").write_bytes((voc / "JPEGImages" / "01.png").read_bytes())
    (voc / "Annotations" / "again.xml").write_text(voc_xml("again.png", [("dog", [1, 1, 3, 3], False)]))
    assert quarantined(ingest({"kind": "voc", "path": str(voc)}))["JPEGImages/again.png"].startswith("duplicate of")


def test_the_summary_counts_objects(both, ingest):
    coco, _ = both
    said = coco_json(BOXES)
    said["annotations"] += [
        {"image_id": 0, "category_id": 3, "bbox": box}
        for box in (
            [-3, 1, 6, 4],
            [5, 5, 0, 3],
            [8, 3, -2, 2],
            [30, 1, 2, 2],
            [1, 1, "x", 2],
            [float("nan"), 1, 2, 2],
            None,
        )
    ]
    said["annotations"].append({"image_id": 999, "category_id": 3, "bbox": [0, 0, 1, 1]})
    (coco / "annotations" / "instances.json").write_text(json.dumps(said))
    summary = ingest({"kind": "coco", "path": str(coco)}).summary
    cats = sum(label == "cat" for boxes in BOXES.values() for label, _, _ in boxes)
    crowds = sum(ignored for boxes in BOXES.values() for _, _, ignored in boxes)
    assert summary["objects"] | {"min": 0, "median": 0, "max": 0} == {
        "classes": {"cat": cats + 1, "dog": 10 - crowds}, "ignored": crowds, "clipped": 1, "dropped": 6, "without": 9,
        "min": 0, "median": 0, "max": 0,
    }  # fmt: skip
    assert summary["notes"] == ["1 annotations of no image in annotations/instances.json were passed over"]
    assert summary["modality"] == "image" and summary["quarantined"] == 0


def test_lists_decide_the_splits_and_cannot_overlap(both, ingest, samples):
    _, voc = both
    lists = {"train": range(0, 14), "validation": range(14, 18), "test": range(18, 28)}
    source: dict[str, Any] = {"kind": "voc", "path": str(voc)}
    for split, seeds in lists.items():
        (voc / "ImageSets" / f"{split}.txt").write_text("".join(f"{seed:02d}  1\n" for seed in seeds))
        source[split] = f"ImageSets/{split}.txt"
    stage = ingest(source)
    assert {row["source"]: row["split"] for row in samples(stage).values()} == {
        f"JPEGImages/{seed:02d}.png": split for split, seeds in lists.items() for seed in seeds
    }
    assert stage.summary["notes"] == [
        "2 annotated images that no list names were passed over",
        "2 images without an annotation that counts were passed over",
    ]
    (voc / "ImageSets" / "test.txt").write_text("18\n03\n")
    with pytest.raises(PipelineError, match="03 stands in train and in test"):
        ingest(source)


def test_one_json_a_split_and_the_same_image_in_two(both, ingest, samples):
    coco, _ = both
    (coco / "annotations" / "instances.json").unlink()
    source: dict[str, Any] = {"kind": "coco", "path": str(coco)}
    for split, seeds in {"train": range(0, 15), "validation": range(15, 20), "test": range(20, 30)}.items():
        part = {seed: BOXES[seed] for seed in seeds}
        (coco / "annotations" / f"{split}.json").write_text(json.dumps(coco_json(part)))
        source[split] = f"annotations/{split}.json"
    rows = samples(ingest(source))
    assert [rows[f"images/{seed:02d}.png"]["split"] for seed in (0, 16, 29)] == ["train", "validation", "test"]
    (coco / "annotations" / "test.json").write_text(json.dumps(coco_json({3: BOXES[3], 20: BOXES[20]})))
    with pytest.raises(PipelineError, match=r"images/03.png stands in test and in train"):
        ingest(source)
    with pytest.raises(PipelineError, match="holds several JSON files"):
        ingest({"kind": "coco", "path": str(coco)})
    with pytest.raises(PipelineError, match=r"has no file x.json"):
        ingest({"kind": "coco", "path": str(coco), "annotations": "x.json"})


def test_a_group_never_stands_in_two_splits(both, ingest, samples):
    coco, voc = both
    said = coco_json(BOXES)
    for image in said["images"]:
        image["slide"] = image["id"] // 3
    (coco / "annotations" / "instances.json").write_text(json.dumps(said))
    for seed, boxes in BOXES.items():
        text = voc_xml(f"{seed:02d}.png", boxes, more=f"<source><slide>{seed // 3}</slide></source>")
        (voc / "Annotations" / f"{seed:02d}.xml").write_text(text)
    found = [
        samples(ingest({"kind": "coco", "path": str(coco), "group": "slide"})),
        samples(ingest({"kind": "voc", "path": str(voc), "group": "source/slide"})),
    ]
    assert objects_in(found[0]) == objects_in(found[1])
    splits: dict[str, set[str]] = {}
    for row in found[0].values():
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 10 and all(len(split) == 1 for split in splits.values())


def faults_of(source: Coco | Voc, path: Path) -> dict[str, str]:
    faults = {}
    for item in read(source, path).items:
        try:
            ImageObjects().read(item.load(), item.extra)
        except BadSample as reason:
            faults[item.source] = str(reason)
    return faults


LAUGHS = (
    "<!DOCTYPE a [<!ENTITY l 'ha'>"
    + "".join(f"<!ENTITY l{n} '&l{n - 1 or ''};&l{n - 1 or ''};'>" for n in range(1, 30))
    + "]>"
)


@pytest.mark.parametrize(("xml", "fault"), [
    (LAUGHS.encode() + b"<annotation>&l29;</annotation>", "declares a document type"),
    (b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation>&x;</annotation>", "declares a document type"),
    (f"<?xml version='1.0' encoding='utf-16'?>{LAUGHS}<annotation/>".encode("utf-16"), "damaged annotation: not in UTF-8"),
    (f"<?xml version='1.0' encoding='utf-16'?>{LAUGHS}<annotation/>".encode("utf-16-le"), "damaged annotation: not in UTF-8"),
    (b"<?xml version='1.0' encoding='cp037'?>" + f"{LAUGHS}<annotation/>".encode("cp037"), "damaged annotation: not in UTF-8"),
    (b"<annotation>" * 100_000, "damaged annotation: no XML"),
    (b"<annotation><object>", "damaged annotation: no XML"),
    (b"", "damaged annotation: no XML"),
    (b"<annotation>" + b" " * (5 << 20) + b"</annotation>", "above 4 MiB"),
    (b"<html></html>", "no <annotation> in it"),
    (b"<annotation><object><bndbox/></object></annotation>", "object without a name"),
    (b"<annotation><size><width>10</width><height>12</height></size></annotation>", "size differs: annotated at 10x12"),
    (b"<annotation>" + b"<object><name>a</name></object>" * 10_001 + b"</annotation>", "too many objects"),
], ids=range(13))  # fmt: skip
def test_a_hostile_xml_file_costs_its_image_alone(both, xml, fault):
    _, voc = both
    (voc / "Annotations" / "05.xml").write_bytes(xml)
    faults = faults_of(Voc(path="."), voc)
    assert list(faults) == ["JPEGImages/05.png"] and fault in faults["JPEGImages/05.png"]


def test_what_is_missing_or_unknown_is_said_of_each_image(both):
    coco, voc = both
    (voc / "JPEGImages" / "04.png").unlink()
    (voc / "Annotations" / "06.xml").write_text(voc_xml("06.png", [("cow", [1, 1, 3, 3], False)]))
    assert faults_of(Voc(path=".", classes=("cat", "dog")), voc) == {
        "04": "no image file", "JPEGImages/06.png": "unknown class: 'cow'"
    }  # fmt: skip
    said = coco_json(BOXES)
    said["annotations"].append({"image_id": 2, "category_id": 99, "bbox": [1, 1, 2, 2]})
    for image, name in (
        (1, "../../etc/passwd"),
        (8, "/etc/passwd"),
        (9, ""),
        (10, "10.PNG\0"),
        (11, 5),
        (12, "13.png"),
    ):
        said["images"][image]["file_name"] = name
    (coco / "annotations" / "instances.json").write_text(json.dumps(said))
    assert faults_of(Coco(path="."), coco) == {
        "images/02.png": "unknown class: id 99", "../../etc/passwd": "no image file", "/etc/passwd": "no image file",
        "annotations/instances.json: image 9": "no file_name", "10.PNG\0": "no image file",
        "annotations/instances.json: image 11": "no file_name", "images/13.png": "annotated twice",
    }  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [
    (b"", "is no JSON"), (b"\xff\xfe\x00", "is no JSON"), (b"[" * 100_000, "is no JSON"), (b"[]", "has no list of images"),
    (b'{"images": {}}', "has no list of images"), (b'{"images": [], "annotations": [], "categories": 5}', "no list of categories"),
    (b'{"images": [{"file_name": "a"}], "annotations": [], "categories": []}', r"images\[0\]: has no id"),
    (b'{"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []}', r"images\[1\]: its id '1' stands there twice"),
    (b'{"images": [{"id": ' + b"9" * 5000 + b'}], "annotations": [], "categories": []}', "is no JSON"),
], ids=range(9))  # fmt: skip
def test_a_hostile_json_file_is_named(both, text, message):
    coco, _ = both
    (coco / "annotations" / "instances.json").write_bytes(text)
    with pytest.raises(PipelineError, match=message):
        read(Coco(path="."), coco)


def test_boxes_are_clipped_or_dropped():
    assert inside([-2, 1, 20, 3], 10, 10) == ([0, 1, 10, 3], True)
    assert inside([0, 0, 10, 10], 10, 10) == ([0, 0, 10, 10], False)
    for box in ([5, 5, 5, 8], [6, 1, 2, 3], [10, 0, 12, 4], [0, 0, 1e-9, 5], [0, 0, float("inf"), 1], [1, 2, 3], None,
                [0, 0, 10**400, 5], ["a", 1, 2, 3]):  # fmt: skip
        assert inside(box, 10, 10) is None, box
    same = {"label": "a", "box": [1, 1, 2, 2]}
    kept, counted = tidy([same, same, same | {"label": "a\n\u202e b"}], 10, 10)
    assert [one["label"] for one in kept] == ["a", "a b"] and counted["objects"] == 2
    for label in ("", None, 5, "x" * 101, "\n"):
        with pytest.raises(BadSample, match="object with"):
            tidy([{"label": label, "box": [1, 1, 2, 2]}], 10, 10)


def test_pixels_that_count_from_one_or_zero(both):
    _, voc = both
    for first in (0, 1):
        text = voc_xml("01.png", [("cat", [1, 2, 5, 9], False)], first_pixel=first)
        (voc / "Annotations" / "01.xml").write_text(text)
        items = {item.source: item for item in read(Voc(path=".", first_pixel=first), voc).items}
        assert items["JPEGImages/01.png"].extra["objects"].objects[0]["box"] == [1, 2, 5, 9]


def test_of_images_of_one_name_the_nearest_is_meant(tmp_path, png):
    """As Roboflow exports: each split a folder with its own annotations, and names that recur."""
    for number, split in enumerate(("train", "valid", "test")):
        (tmp_path / split).mkdir()
        for name in ("a", "b"):
            (tmp_path / split / f"{name}.png").write_bytes(png(2 * number + (name == "b")))
            (tmp_path / split / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", [(split, [1, 1, 2, 2], False)]))
    for item in read(Voc(path="."), tmp_path).items:
        assert item.extra["objects"].objects[0]["label"] == item.source.split("/")[0]
    assert not faults_of(Voc(path="."), tmp_path)
    (tmp_path / "train" / "a.webp").write_bytes(png(9))
    assert faults_of(Voc(path="."), tmp_path) == {"a": "several images of that name: 2, name the folder in images"}


def test_an_image_turned_by_its_exif_has_other_sides(encode, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(1, 12, 10), "JPEG", exif=exif)
    with pytest.raises(BadSample, match="size differs: annotated at 12x10, the image has 10x12"):
        ImageObjects().read(data, {"objects": Annotation([], (12, 10))})


def test_names_in_lists():
    assert names_in(b"\xef\xbb\xbf2008_01 -1\nJPEGImages/a b.jpg\n\n c.d \r\nx.xml") == ["2008_01", "a b", "c.d", "x"]


@pytest.mark.parametrize(("said", "message"), [
    ({"kind": "voc", "train": "../x.txt"}, "leads out of the source"),
    ({"kind": "coco", "images": "/x"}, "leads out of the source"),
    ({"kind": "voc", "train": "x.txt", "test": "x.txt"}, "named for two splits"),
    ({"kind": "coco", "train": "x.json", "annotations": "y.json"}, "say either"), ({"kind": "voc", "group": "a[1"}, "group"),
])  # fmt: skip
def test_a_source_that_contradicts_itself_is_refused(said, message):
    with pytest.raises(ValidationError, match=message):
        (Coco if said["kind"] == "coco" else Voc).model_validate({"path": "x"} | said)


def test_plain_xml_is_read():
    assert tree(b'<?xml version="1.0" encoding="UTF-8"?><annotation><a>\xc3\xa9</a></annotation>').findtext("a") == "é"


def test_shards_open_with_datasets(both, ingest):
    import datasets

    stage = ingest({"kind": "coco", "path": str(both[0])})
    loaded = datasets.Dataset.from_parquet(
        str(stage.path / "tree" / "train-00000.parquet"), cache_dir=str(both[0] / "cache")
    )
    row = next(row for row in loaded if len(row["objects"]) == 2)
    assert row["objects"][0] == {"label": "cat", "box": [1.0, 2.0, 5.0, 9.0], "ignored": False} and row[
        "image"
    ].size == (12, 10)


def test_blood_cells():
    source = Voc(path=".", train="bccd/ImageSets/Main/train.txt", validation="bccd/ImageSets/Main/val.txt")
    reading, counts = read(source, repository_data("bccd.zip")), {"train": 0, "validation": 0}
    medium, objects = ImageObjects(), 0
    for number, item in enumerate(reading.items):
        counts[item.split] += 1
        if number % 10 == 0:
            objects += len(medium.read(item.load(), item.extra).columns["objects"])
    assert counts["train"] + counts["validation"] == 292 and objects > 300
