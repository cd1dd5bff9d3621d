"""From data that nobody has described to a recipe that loads."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssl_pipeline import new
from ssl_pipeline.ingest import readers, sniff
from ssl_pipeline.part import PipelineError
from ssl_pipeline.project import Project
from ssl_pipeline.recipe import Dataset, Recipe, load


@pytest.fixture
def project(tmp_path):
    (root := tmp_path / "project").mkdir()
    return Project(root)


def written(project: Project, data) -> tuple[Dataset, Recipe]:
    file, _ = new.write(project, "mine", data)
    (dataset,), (recipe,) = load(file)
    return dataset, recipe


@pytest.mark.parametrize("gpu", [False, True])
def test_sentence_pairs_are_for_translation(project, monkeypatch, gpu):
    monkeypatch.setattr(new, "has_gpu", lambda: gpu)
    data = project.root / "pairs"
    data.mkdir()
    for language in ("en", "de"):
        (data / f"train.{language}").write_text("".join(f"{language} {n}\n" for n in range(40)))
    dataset, recipe = written(project, data)
    assert (dataset.source.path, dataset.source.parallel) == ("pairs/train.en", "train.de")
    assert recipe.pretext.task == "masked_language" and recipe.encoder.kind == "text"
    (evaluation,) = recipe.evaluations
    assert evaluation.kind == "translation" and evaluation.steps == (2000 if gpu else 300)
    assert recipe.promote.metric == evaluation.leading()


def test_a_table_of_pairs_in_a_folder_of_its_own(project, tmp_path):
    (folder := tmp_path / "download").mkdir()
    rows = {"english": ["good morning", "good night"] * 20, "german": ["guten Morgen", "gute Nacht"] * 20}
    pd.DataFrame(rows).to_csv(folder / "list.tsv", sep="\t", index=False)
    dataset, recipe = written(project, folder)
    assert (dataset.source.text, dataset.source.target) == ("english", "german")
    assert [one.kind for one in recipe.evaluations] == ["translation"]
    with pytest.raises(PipelineError, match="exists: choose another name"):
        new.write(project, "mine", folder)


def test_masks_are_for_segmentation(project, tmp_path, monkeypatch):
    monkeypatch.setattr(sniff, "FILES", 7)  # no mask among the first
    for n in range(12):
        values = np.full((20, 24), max(0, n - 8), np.uint8)  # most classes are in the last
        values[0, 0] = 255
        masked(tmp_path / "scans" / "train", n, "images", "labels", values)
    dataset, recipe = written(project, tmp_path / "scans")
    source = dataset.source
    assert (source.kind, source.images, source.masks, source.ignore) == ("masks", "images", "labels", 255)
    assert source.classes == ("class 0", "class 1", "class 2", "class 3")
    (evaluation,) = recipe.evaluations
    assert (evaluation.kind, evaluation.stage) == ("segmentation", -3)  # of 20 pixels


@pytest.mark.parametrize("side, gpu, stage", [(224, False, -1), (224, True, -2), (64, False, -2), (32, False, -3)])
def test_the_map_that_is_segmented_has_enough_places(monkeypatch, side, gpu, stage):
    monkeypatch.setattr(new, "has_gpu", lambda: gpu)
    assert new.fine_stage(side) == stage


def test_masks_whose_values_are_no_classes(project, tmp_path):
    for n in range(4):
        masked(tmp_path / "scans", n, "img", "masks", np.eye(8, dtype=np.uint8) * 255)
    with pytest.raises(PipelineError, match="masks hold the values 0 and 255.*write them as 0 and 1"):
        written(project, tmp_path / "scans")
    found = sniff.source_of(tmp_path / "scans")  # to embed its images no mask is needed
    assert found.kind == "masks" and len([item.load() for item in readers.read(found, tmp_path).items]) == 4


def masked(folder, number: int, images: str, masks: str, values: np.ndarray) -> None:
    """A picture of noise and its mask."""
    for name, pixels in ((images, noise(number, *values.shape)), (masks, values)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_cocos_boxes_are_for_detection(project, tmp_path):
    (tmp_path / "cells" / "inner").mkdir(parents=True)
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(20)]
    for image in images:
        Image.new("RGB", (40, 40), (image["id"], 9, 9)).save(tmp_path / "cells/inner" / image["file_name"])
    boxes = [{"image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9]} for n in range(20)]
    said = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "cells/inner/labels.json").write_text(json.dumps(said))
    dataset, recipe = written(project, tmp_path / "cells")
    assert dataset.source.kind == "coco" and dataset.source.annotations == "labels.json"
    assert [one.kind for one in recipe.evaluations] == ["detection"]
