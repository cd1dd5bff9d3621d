from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ssl_pipeline.encoders.settings_video import VideoEncoder
from ssl_pipeline.encoders.video import build
from ssl_pipeline.pretext.clip_order import ClipOrder
from ssl_pipeline.pretext.frame_order import FrameOrder
from ssl_pipeline.pretext.labels import generator
from ssl_pipeline.pretext.ordering import LIGHT, backwards
from ssl_pipeline.pretext.pairs import OrderHead
from ssl_pipeline.pretext.views import Views
from ssl_pipeline.recipe import Recipe

SETTINGS = VideoEncoder(image_size=16, frames=9, options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]})
PLAIN = {
    "views": Views(min_scale=1, max_scale=1, flip=False, color=0, blur=False), "shift": 0, "light": 0,
    "split_channels": False,
}  # fmt: skip
TASKS = {
    "three frames": FrameOrder(), "four frames": FrameOrder(frames=4), "a direction": FrameOrder(direction=True),
    "verify": FrameOrder(verify=True), "clips": ClipOrder(), "two clips": ClipOrder(clips=2, clip_frames=3),
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build(SETTINGS, {"channels": 3})


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param].fitted(SETTINGS)


def numbered(count=4, channels=3):
    """Clips whose frame t has the value t / 10."""
    return (torch.arange(9.0) / 10)[None, :, None, None, None].expand(count, 9, channels, 16, 16)


def test_the_number_of_classes_is_the_papers():
    assert [len(FrameOrder(frames=n).classes()) for n in (3, 4, 5)] == [3, 12, 60]
    assert [len(FrameOrder(frames=n, direction=True).classes()) for n in (3, 4, 5)] == [6, 24, 120]
    assert FrameOrder(verify=True).classes() == ["in order", "shuffled"]
    assert [len(ClipOrder(clips=n).classes()) for n in (2, 3, 4)] == [2, 6, 24]
    assert FrameOrder().classes() == ["0 1 2", "0 2 1", "1 0 2"]


@pytest.mark.parametrize("frames", [3, 4, 5])
def test_a_film_run_backwards_has_the_same_class(frames):
    """Who cannot see which way time runs could otherwise not know the answer."""
    task, film = FrameOrder(frames=frames), list("abcde")[:frames]
    numbers = dict(zip(task.orders(), task.class_of(), strict=True))
    for order in permutations(range(frames)):
        shown = [film[piece] for piece in order]
        in_the_other_film = tuple(film[::-1].index(piece) for piece in shown)
        assert backwards(order) == in_the_other_film
        assert numbers[order] == numbers[in_the_other_film]


def test_pieces_lie_in_the_clip_apart_and_anywhere(task):
    start = task.draw(4000, SETTINGS, generator(0))["start"].long()
    assert start.min() == 0 and start.max() + task.piece_frames == 9, "all of the clip is used"
    assert (start.diff(dim=1) >= task.stride).all()
    counts = torch.unique(start, dim=0, return_counts=True)[1].float()
    possible = sum(
        all(b - a >= task.stride for a, b in pairwise(places))
        for places in combinations(range(9 - task.piece_frames + 1), task.pieces)
    )
    assert len(counts) == possible
    assert (counts / 4000 * possible - 1).abs().max() < 0.5, "all places are equally likely"


def test_every_class_is_asked_of_every_clip(task):
    labels = task.draw(500, SETTINGS, generator(0))
    class_of = torch.tensor(task.class_of())
    assert torch.equal(class_of[labels["asked"].long()], torch.arange(len(task.classes())).expand(500, -1))
    asked, known = set(labels["asked"].flatten().tolist()), set(range(len(task.orders())))
    assert asked == known, "every order comes up"
    assert all(labels[name].dtype == torch.uint8 for name in ("start", "asked", "channel"))


def test_labels_are_decided_by_the_generator_alone(task):
    a, b, c = (task.draw(50, SETTINGS, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["start"], c["start"])


def test_pieces_of_a_clip_are_cropped_and_flipped_alike_but_for_a_small_shift():
    task = FrameOrder(shift=0.05)
    affine = task.draw(500, SETTINGS, generator(0))["affine"]
    linear, offset = affine[..., :2], affine[..., 2]
    assert (linear == linear[:, :1]).all()
    assert not (offset == offset[:, :1]).all()
    assert (offset.amax(1) - offset.amin(1)).max() <= 4 * 0.05
    assert (linear.abs().sum(-1) + offset.abs() <= 1 + 1e-5).all(), "crops stay inside"
    still = FrameOrder(shift=0, light=0).draw(50, SETTINGS, generator(0))
    for name in ("affine", "color", "blur"):
        assert (still[name] == still[name][:, :1]).all()


def test_the_light_changes_from_piece_to_piece():
    color = FrameOrder(light=0.2).draw(500, SETTINGS, generator(0))["color"]
    ratio = color[..., 0] / color[:, :1, 0]
    assert 0.8 / 1.2 <= ratio.min() < 0.85 and 1.15 < ratio.max() <= 1.2 / 0.8
    assert (color[..., 1:] == color[:, :1, 1:]).all()


def test_the_right_frames_are_shown(encoder):
    for task in (FrameOrder(**PLAIN), ClipOrder(**PLAIN)):
        labels = task.draw(4, SETTINGS, generator(3))
        views = task.render(encoder, numbered(), labels)
        assert views.shape == (4, task.pieces, task.piece_frames, 3, 16, 16)
        expected = labels["start"].float()[..., None] + torch.arange(task.piece_frames)
        torch.testing.assert_close(views.mean((3, 4, 5)), expected / 10, atol=1e-5, rtol=0)


def test_a_piece_is_shown_in_one_of_its_colours(encoder):
    task = FrameOrder(**PLAIN | {"split_channels": True})
    clips = torch.rand(200, 9, 3, 16, 16)
    labels = task.draw(200, SETTINGS, generator(0)) | {"affine": torch.eye(2, 3).expand(200, 3, 2, 3)}
    views, pieces = task.render(encoder, clips, labels), task.taken(clips, labels)
    assert (views == views[:, :, :, :1]).all()
    weights = torch.cat([torch.eye(3), torch.tensor([LIGHT])])
    for clip in range(200):
        for place in range(3):
            expected = torch.einsum("fchw,c->fhw", pieces[clip, place], weights[labels["channel"][clip, place].long()])
            torch.testing.assert_close(views[clip, place, :, 0], expected, atol=1e-5, rtol=0)
    assert set(labels["channel"].flatten().tolist()) == {0, 1, 2, 3}


def test_grey_video_has_no_colours_to_choose_from(task):
    settings = VideoEncoder(image_size=16, frames=9, channels=1)
    labels = task.draw(2, settings, generator(0))
    assert task.render(None, numbered(2, 1), labels).shape == (2, task.pieces, task.piece_frames, 1, 16, 16)


@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_the_head_against_comparing_the_pieces_as_they_are_shown(pieces):
    """Pairs are compared once for all orders; here they are compared again for each."""
    torch.manual_seed(0)
    orders = list(permutations(range(pieces)))
    head = OrderHead(5, 7, orders, list(range(len(orders)))).double().eval()
    features = torch.randn(6, pieces, 5, dtype=torch.double)
    asked = torch.randint(len(orders), (6, 4))
    logits = head(features, asked)
    assert logits.shape == (6, 4, len(orders))
    for clip in range(6):
        for question in range(4):
            shown = [features[clip, piece] for piece in orders[asked[clip, question]]]
            compared = [
                head.compare(torch.cat([a, b, (a - b).abs()])[None])[0] for a, b in combinations(shown, 2)
            ]  # fmt: skip
            torch.testing.assert_close(logits[clip, question], head.decide(torch.cat(compared)))


def test_the_loss_against_a_loop_in_float64(task, encoder):
    torch.manual_seed(0)
    head, encoder = task.build_head(encoder).double().eval(), build(SETTINGS, {"channels": 3}).double().eval()
    labels = task.draw(5, SETTINGS, generator(0))
    views = task.render(encoder, torch.rand(5, 9, 3, 16, 16), labels).double()
    out = task.step(encoder, head, views, labels)
    losses, right, classes = [], [], task.class_of()
    for clip in range(5):
        frames = torch.stack([encoder.frame(piece) for piece in views[clip]])[None]  # [1, pieces, piece_frames, dim]
        for number in labels["asked"][clip].tolist():
            logits = head(task.feature(frames), torch.tensor([[number]]))[0, 0]
            losses.append(logits.logsumexp(0) - logits[classes[number]])
            right.append(float(logits.argmax() == classes[number]))
    assert float(out["loss"].detach()) == pytest.approx(float(torch.stack(losses).mean().detach()), abs=1e-5)
    assert float(out["accuracy"]) == pytest.approx(np.mean(right))
    assert out["embedding"].shape == (5 * task.pieces * task.piece_frames, encoder.dim)


def test_nothing_learnt_is_the_collapse_loss(task, encoder):
    head = task.build_head(encoder)
    for weight in head.parameters():
        nn.init.zeros_(weight)
    labels = task.draw(5, SETTINGS, generator(0))
    out = task.step(encoder, head, task.render(encoder, torch.rand(5, 9, 3, 16, 16), labels), labels)
    assert float(out["loss"].detach()) == pytest.approx(task.collapse_loss(5), abs=1e-6)


def test_a_repeated_piece_leaves_chance(task, encoder):
    """Whatever the weights: nothing tells the orders apart."""
    torch.manual_seed(1)
    head = task.build_head(encoder).eval()
    labels = task.draw(8, SETTINGS, generator(0))
    views = task.render(encoder.eval(), torch.rand(8, 9, 3, 16, 16), labels)
    (repeat,) = task.controls().values()
    with torch.no_grad():
        accuracy = task.step(encoder, head, repeat(views), labels)["accuracy"]
    assert float(accuracy) == pytest.approx(1 / len(task.classes()))


def test_gradients_reach_encoder_and_head(task):
    torch.manual_seed(0)
    encoder = build(SETTINGS, {"channels": 3})
    head = task.build_head(encoder)
    labels = task.draw(6, SETTINGS, generator(0))
    task.step(encoder, head, task.render(encoder, torch.rand(6, 9, 3, 16, 16), labels), labels)["loss"].backward()
    assert all(weight.grad is not None for weight in [*encoder.parameters(), *head.parameters()])
    first = encoder.frame.backbone.conv1.weight
    assert first.grad.abs().sum() > 0


def test_in_bf16_views_and_loss_are_near_those_in_fp32(task, encoder):
    torch.manual_seed(0)
    head = task.build_head(encoder).eval()
    labels = task.draw(6, SETTINGS, generator(0))
    batch = {"clip": torch.randint(0, 256, (6, 9, 3, 16, 16), dtype=torch.uint8)}
    losses = []
    for enabled in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            views = task.render(encoder.eval(), encoder.read(batch), labels)
            loss = task.step(encoder, head, views, labels)["loss"]
        assert views.dtype == (torch.bfloat16 if enabled else torch.float32) and loss.dtype == torch.float32
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_the_table_and_the_picture_tell_the_same_order(encoder):
    task = FrameOrder(**PLAIN)
    labels = task.draw(6, SETTINGS, generator(0))
    table = task.table(labels)
    assert len(table) == 18 and table["label"].value_counts().to_dict() == {"0 1 2": 6, "0 2 1": 6, "1 0 2": 6}
    picture = task.picture(encoder, numbered(6), labels)
    assert picture.shape == (6, 6, 3, 16, 16) and len(task.columns()) == 6
    titles = task.row_titles(encoder, None, labels)
    for row in range(6):
        seen = table["order"][3 * row + row % 3]
        assert titles[row] == seen
        in_time, shown = (picture[row, part].mean((1, 2, 3)) for part in (slice(3), slice(3, 6)))
        assert (in_time.diff() > 0).all()
        torch.testing.assert_close(shown, in_time[[int(piece) for piece in seen.split()]], atol=1e-5, rtol=0)
    assert ClipOrder().picture(encoder, numbered(6), ClipOrder().draw(6, SETTINGS, generator(0))).shape == (
        6, 6, 3, 16, 32
    )  # fmt: skip


def test_settings_that_do_not_fit_say_what_would():
    with pytest.raises(
        ValueError, match=r"need 9 frames, and encoder.frames is 8: raise it to 12 or lower pretext.gap"
    ):
        FrameOrder(gap=4).fitted(VideoEncoder(frames=8))
    with pytest.raises(ValidationError, match="encoder.frames is 4"):
        Recipe.model_validate(
            {
                "name": "a", "dataset": "b", "encoder": {"kind": "video", "frames": 4}, "pretext": {"task": "clip_order"},
                "evaluations": [], "promote": None,
            }
        )  # fmt: skip
    with pytest.raises(ValidationError):
        FrameOrder(frames=2)


def test_an_encoder_learns_the_order_of_what_moves():
    """A bright square that wanders over a dark clip."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    clips = np.zeros((64, 9, 3, 16, 16), np.uint8)
    for clip in clips:
        x, y, angle = *random.uniform(4, 12, 2), random.uniform(0, 2 * np.pi)
        for t, frame in enumerate(clip):
            a, b = (round(v + 0.7 * (t - 4) * d) for v, d in ((x, np.cos(angle)), (y, np.sin(angle))))
            frame[:, max(0, a - 3) : a + 3, max(0, b - 3) : b + 3] = 255
    task, encoder = FrameOrder(**PLAIN), build(SETTINGS, {"channels": 3})
    head = task.build_head(encoder)
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    accuracy = []
    for step in range(40):
        labels = task.draw(64, SETTINGS, generator(step))
        out = task.step(encoder, head, task.render(encoder, torch.from_numpy(clips).float() / 255, labels), labels)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        accuracy.append(float(out["accuracy"]))
    assert np.mean(accuracy[-10:]) > 0.5, accuracy
