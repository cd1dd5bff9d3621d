"""What is refused when a recipe is loaded, with the cure; and what is filled in."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ssl_pipeline.chain import stages_of
from ssl_pipeline.orchestration import project_definitions
from ssl_pipeline.orchestration.run import selected
from ssl_pipeline.part import PipelineError
from ssl_pipeline.recipe import Dataset, Recipe, explain

ENCODERS = {
    "image": {}, "audio": {"kind": "audio"}, "video": {"kind": "video"}, "text": {"kind": "text"},
    "image_text": {"kind": "image_text"}, "interactions": {"kind": "interactions"}, "series": {"kind": "series"},
}  # fmt: skip
USUAL = {
    "image": "simclr", "audio": "simclr", "video": "frame_order", "text": "masked_language", "image_text": "clip",
    "interactions": "next_item", "series": "masked_patches",
}  # fmt: skip


def recipe(kind: str = "image", task: str | None = None, **parts) -> Recipe:
    pretext = {"task": task or USUAL[kind]} | parts.pop("pretext", {})
    return Recipe.model_validate({"name": "a", "dataset": "b", "encoder": ENCODERS[kind], "pretext": pretext} | parts)


def refusal(*arguments, **parts) -> str:
    with pytest.raises(ValidationError) as refused:
        recipe(*arguments, **parts)
    return explain(refused.value)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_modality_has_a_recipe_of_few_words_and_it_survives_being_written(kind):
    made = recipe(kind)
    assert made.encoder.kind == kind and made.evaluations and made.promote
    assert made.promote.metric in made.evaluations[0].metrics()
    assert Recipe.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("kind", "task", "fitting"),
    [
        ("text", "frame_order", ["masked_language", "simcse"]),
        ("image", "frame_order", ["rotation", "inpainting", "simclr"]),
        ("video", "masked_language", ["frame_order", "clip_order"]),
        ("audio", "rotation", ["simclr", "inpainting"]),
        ("interactions", "clip", ["next_item", "masked_items"]),
    ],
)
def test_a_task_of_another_modality_is_refused_with_those_that_fit(kind, task, fitting):
    said = refusal(kind, task)
    assert said.startswith(f"pretext: task {task!r} is for encoders of kind")
    assert all(name in said for name in fitting) and task not in said.partition("what fits")[2]


def test_an_encoder_for_other_data_than_the_datasets_is_refused_with_what_fits():
    data = Dataset.model_validate({"name": "b", "source": {"kind": "video_folder", "path": "films"}})
    with pytest.raises(
        PipelineError, match=r"holds video data, and encoder.kind is text.*encoder.kind: video.*frame_order"
    ):
        project_definitions.check([data], [recipe("text")])
    project_definitions.check([data], [recipe("video")])


def test_views_and_evaluations_follow_the_encoder_or_are_refused():
    assert recipe("image").pretext.views.kind == "image"
    assert (
        recipe("audio").pretext.views.kind == "spectrogram"
        and recipe("series", "simclr").pretext.views.kind == "series"
    )
    assert recipe("audio").evaluations[0].supervised_views.kind == "spectrogram"
    assert recipe("text").evaluations[0].supervised_views is None
    assert "write kind: spectrogram" in refusal("audio", pretext={"views": {"min_scale": 0.5}})
    assert "evaluations: retrieval is for image_text encoders" in refusal("image", evaluations=[{"kind": "retrieval"}])
    assert "twice" in refusal(evaluations=[{"kind": "classification"}] * 2)


def test_promotion_names_a_metric_that_is_measured():
    assert recipe(promote={"minimum": 0.5}).promote.metric == "classification/linear/accuracy/all"
    assert recipe(evaluations=[]).promote is None
    assert "is not measured" in refusal(promote={"metric": "classification/linear/accuracy/3"})


def test_errors_name_what_was_written_and_no_member_of_a_union():
    assert refusal(pretext={"temperature": -1}).startswith("pretext.temperature: ")
    said = refusal("text", encoder={"kind": "text", "widht": 3, "layers": 0})
    assert "encoder.widht: " in said and "encoder.layers: " in said
    with pytest.raises(ValidationError) as refused:
        Dataset.model_validate({"name": "b", "source": {"kind": "image_folder"}})
    assert explain(refused.value).startswith("source.path: ")


def test_going_on_from_another_recipe_needs_the_same_encoder_and_an_end():
    data = Dataset.model_validate({"name": "b", "source": {"kind": "text", "path": "news.txt"}})
    first = recipe("text")
    second = recipe("text", "simcse", name="c", start_from="a")
    project_definitions.check([data], [first, second])
    with pytest.raises(PipelineError, match="there is no other recipe 'x'"):
        project_definitions.check([data], [first, recipe("text", name="c", start_from="x")])
    other = recipe("text", name="c", start_from="a", encoder={"kind": "text", "layers": 1})
    with pytest.raises(PipelineError, match="has another encoder"):
        project_definitions.check([data], [first, other])
    circle = [recipe("text", start_from="c"), recipe("text", name="c", start_from="a")]
    with pytest.raises(PipelineError, match="leads back"):
        project_definitions.check([data], circle)


def test_items_are_described_by_a_recipe_of_texts_or_pictures():
    sources = {"texts": {"kind": "text", "path": "films.txt"}, "logs": {"kind": "interactions", "path": "logs.csv"}}
    data = [Dataset.model_validate({"name": name, "source": source}) for name, source in sources.items()]
    encoder = {"kind": "interactions", "item_features": "titles"}
    titles = recipe("text", "simcse", name="titles", dataset="texts")
    described = recipe("interactions", name="a", dataset="logs", encoder=encoder)
    project_definitions.check(data, [titles, described])
    assert described.upstream == {"encoder.item_features": "titles"}
    specs = project_definitions.definitions(data, [titles, described]).resolve_all_asset_specs()
    labels = next(spec for spec in specs if spec.key.path == ["a", "pretext_labels"])
    assert ["titles", "features"] in [dep.asset_key.path for dep in labels.deps]
    stages = ("pretext_labels", "pretrained_encoder", "features")
    keys = selected([described], [titles, described], "pretext_labels")
    assert keys[:4] == [["texts", "dataset"], *(["titles", stage] for stage in stages)]
    with pytest.raises(PipelineError, match="item_features: there is no other recipe 'titles'"):
        project_definitions.check(data, [described])
    users = recipe("interactions", name="titles", dataset="logs")
    with pytest.raises(PipelineError, match="embeds users, not items"):
        project_definitions.check(data, [users, described])


def test_a_slip_of_the_pen_is_answered_with_what_was_meant():
    assert "pretrain.epoch: there is no such key; did you mean 'epochs'" in refusal(pretrain={"epoch": 3})
    slip = refusal(evaluations=[{"kind": "clasification"}])
    assert slip.startswith("evaluations.0: 'clasification' is none of ") and slip.endswith(
        "did you mean 'classification'?"
    )
    slip = refusal(pretext={"task": "simclrr"})
    assert slip.startswith("pretext: 'simclrr' is none of ") and ";" in slip and "default factory" not in slip
    assert refusal(**{"{odd}": 1}) == "{odd}: there is no such key"


def test_one_epoch_needs_no_word_on_warming_up():
    assert recipe(pretrain={"epochs": 1}).pretrain.warmup_epochs == 0.1
    assert recipe(pretrain={"epochs": 2}).pretrain.warmup_epochs == 1
    assert "warmup_epochs 1 must be shorter" in refusal(pretrain={"epochs": 1, "warmup_epochs": 1})


def test_a_stage_that_a_recipe_lacks_is_no_goal():
    with pytest.raises(
        PipelineError, match="recipe 'a': no clustering among its evaluations; add it, or use --to features"
    ):
        stages_of(recipe(), "clustering")
