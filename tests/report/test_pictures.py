"""Pictures decode, have the size they should, show what was handed in, and survive what real runs hand them."""

from __future__ import annotations

import io
import math
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from ssl_pipeline.report import pictures
from ssl_pipeline.report.charts import apart, series, smoothed
from ssl_pipeline.report.ink import GREEN, RIGHT, WRONG, marks, plain

HOSTILE = "$x_{1$|<b>\n\x00\ud800 \\frac %s " + "long" * 20


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def decoded(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def has(pixels: np.ndarray, colour: str) -> int:
    """How many pixels have exactly this colour."""
    return int((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def log(steps: int, **curves: float) -> list[dict[str, float]]:
    return [{"step": 10 * s, "epoch": s / 7, "loss": 6 - s / steps, **curves} for s in range(1, steps + 1)]


# sheets


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sheet_shows_the_images_unchanged_but_for_their_size(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, channels, 28, 28), dtype=np.uint8)
    pixels = decoded(pictures.sheet(images))
    side, gap, margin = 84, 6, 14  # 28 pixels three times
    assert pixels.shape == (2 * margin + 3 * side + 2 * gap, 2 * margin + 4 * side + 3 * gap, 3)
    shown = [0, 1, 2] if channels >= 3 else [0, 0, 0]
    for row, column in np.ndindex(3, 4):
        y, x = margin + row * (side + gap), margin + column * (side + gap)
        tile = pixels[y : y + side : 3, x : x + side : 3]
        np.testing.assert_array_equal(tile, images[row, column, shown].transpose(1, 2, 0))


def test_sheet_takes_floats_and_clips_what_is_outside_0_to_1():
    images = np.zeros((1, 4, 1, 96, 96), np.float32)
    for column, value in enumerate([0.5, 7.0, -3.0, np.nan]):
        images[0, column] = value
    pixels = decoded(pictures.sheet(images))
    middles = [int(pixels[14 + 48, 14 + 48 + column * 102, 0]) for column in range(4)]
    assert middles == [128, 255, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (96, 96), (500, 375), (3, 400), (1, 1)])
def test_sheet_cells_come_out_near_the_asked_size(height, width):
    pixels = decoded(pictures.sheet(np.zeros((1, 1, 3, height, width), np.uint8)))
    longer = max(pixels.shape[:2]) - 28
    assert 70 <= longer <= 128


def test_sheet_titles_take_room_and_ink():
    images = np.full((2, 3, 1, 28, 28), 255, np.uint8)
    bare = decoded(pictures.sheet(images))
    titled = decoded(pictures.sheet(images, ["an image", "0°", HOSTILE], ["first", "second"]))
    assert (bare == 255).all()
    assert titled.shape[0] > bare.shape[0] and titled.shape[1] > bare.shape[1]
    assert (titled < 128).any()


def test_sheet_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match=r"not \[2, 3, 28, 28\]"):
        pictures.sheet(np.zeros((2, 3, 28, 28)))
    with pytest.raises(ValueError, match=r"not \[0, 3, 1, 28, 28\]"):
        pictures.sheet(np.zeros((0, 3, 1, 28, 28)))
    with pytest.raises(ValueError, match="2 titles for 3"):
        pictures.sheet(np.zeros((2, 3, 1, 28, 28)), ["a", "b"])


def test_neighbours_frame_right_and_wrong_ones():
    queries, retrieved = np.zeros((2, 3, 32, 32)), np.zeros((2, 4, 3, 32, 32))
    right = np.ones((2, 4), bool)
    all_right = decoded(pictures.neighbours(queries, retrieved, right))
    assert has(all_right, RIGHT) > 1000
    assert has(all_right, WRONG) == 0
    mixed = right.copy()
    mixed[1, 2] = False
    pixels = decoded(pictures.neighbours(queries, retrieved, mixed))
    assert has(pixels, WRONG) == pytest.approx(has(all_right, RIGHT) / 8, rel=0.15)
    unknown = decoded(pictures.neighbours(queries, retrieved))
    assert has(unknown, RIGHT) == has(unknown, WRONG) == 0


def test_neighbours_of_one_and_of_other_shapes():
    assert decoded(pictures.neighbours(np.zeros((1, 5, 9, 9)), np.zeros((1, 1, 5, 9, 9)), np.ones((1, 1), bool))).any()
    with pytest.raises(ValueError, match="no neighbours"):
        pictures.neighbours(np.zeros((2, 1, 9, 9)), np.zeros((3, 4, 1, 9, 9)))


# curves


def test_curves_grow_a_panel_for_each_metric():
    widths = [
        decoded(pictures.curves(log(50, **extra))).shape[1]
        for extra in ({}, {"a": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0})
    ]
    assert widths[0] < widths[1] < widths[2]


def test_curves_put_validation_into_the_panel_of_training():
    alone = log(50)
    both = [{**row, "validation/loss": 5.0} if row["step"] % 70 == 0 else row for row in alone]
    first, second = decoded(pictures.curves(alone)), decoded(pictures.curves(both))
    assert first.shape == second.shape
    assert has(second, "#d55e00") > has(first, "#d55e00")


def test_curves_draw_the_collapse_constant_even_far_from_the_loss():
    without, near, far = (pictures.curves(log(50), collapse_loss=c) for c in (None, 6.24, 60.0))
    assert without != near != far


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "epoch": 0.1, "loss": None}],
        [{"step": 0, "loss": 1.0}],
        [{"step": 1, "loss": math.nan}],
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.inf, "validation/loss": math.nan}],
        [{"step": 1, "loss": 2.0}, {"step": 2, "validation/accuracy": 0.5}, {"step": 3, HOSTILE: 1.0, "note": "text"}],
        [{"step": s, "loss": 1e300 * s, "gradient_norm": 0.0} for s in range(5)],
    ],
)
def test_curves_of_what_a_run_may_leave(rows):
    assert decoded(pictures.curves(rows, total_steps=100, collapse_loss=1.4)).std() > 0


def test_curves_say_where_the_loss_was_lost():
    finite = log(20)
    lost = [*finite[:-1], {**finite[-1], "loss": math.nan}]
    assert has(decoded(pictures.curves(finite)), "#d55e00") == 0
    assert has(decoded(pictures.curves(lost)), "#d55e00") > 20


def test_a_long_series_is_thinned_and_keeps_its_last_value():
    steps, values = series([{"step": s, "loss": float(s)} for s in range(100_001)], "loss")
    assert len(steps) <= 2000
    assert steps[-1] == values[-1] == 100_000
    assert (np.diff(steps) > 0).all()


def test_smoothing_keeps_constants_and_means():
    np.testing.assert_allclose(smoothed(np.full(100, 3.0)), 3.0)
    values = np.random.default_rng(0).normal(size=300)
    slow = np.array([values[max(0, i - 10) : i + 11].mean() for i in range(300)])
    np.testing.assert_allclose(smoothed(values), slow, atol=1e-12)
    short = np.array([1.0, 5.0])
    assert smoothed(short) is short


# confusion


@pytest.mark.parametrize("k", [1, 2, 10, 12, 13, 100, 300])
def test_confusion_of_few_and_many_classes(k):
    counts = np.random.default_rng(k).integers(0, 50, (k, k))
    pixels = decoded(pictures.confusion(counts, [f"class {i}" for i in range(k)]))
    assert max(pixels.shape) < 2000
    assert pixels.shape[1] > 200


def test_confusion_colours_are_shares_of_a_row_blue_right_orange_wrong():
    perfect = decoded(pictures.confusion(np.diag([5, 500]), ["a", "b"]))
    assert has(perfect, "#005499") > 30_000  # both diagonal cells in the full blue, whatever their counts
    unequal = decoded(pictures.confusion(np.array([[0, 5], [0, 5]]), ["a", "b"]))
    assert 15_000 < has(unequal, "#005499") < 30_000  # all of the second row, half of the column
    inverse = decoded(pictures.confusion(np.array([[0, 3], [900, 0]]), ["a", "b"]))
    assert has(inverse, "#c24a00") > 30_000
    assert has(inverse, "#005499") == 0


def test_confusion_of_hostile_names_and_empty_rows():
    names = [HOSTILE, "", "<script>"]
    assert decoded(pictures.confusion(np.array([[0, 0, 0], [3, 1, 0], [0, 20_000, 1]]), names)).std() > 0
    assert decoded(pictures.confusion(np.zeros((3, 3)), names)).std() > 0


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((0, 0)), [[1, math.nan], [0, 1]], [[1, -1], [0, 1]]])
def test_confusion_refuses_what_are_no_counts(matrix):
    with pytest.raises(ValueError, match="confusion matrix of"):
        pictures.confusion(np.asarray(matrix), ["a", "b"])


# accuracy against labels


def test_efficiency_draws_each_method_in_its_own_colour():
    line = [(10, 0.5, 0.45, 0.55), (100, 0.7, 0.68, 0.72), ("all", 0.8, 0.79, 0.81)]
    pixels = decoded(
        pictures.efficiency(
            {"digits_simclr": line, "digits_inpainting": [(s, m - 0.2, lo - 0.2, hi - 0.2) for s, m, lo, hi in line]}
        )
    )
    assert has(pixels, "#0072b2") > 300
    assert has(pixels, GREEN) > 300
    assert has(pixels, "#d55e00") == 0


@pytest.mark.parametrize(
    "points",
    [
        [("all", 0.5, 0.4, 0.6)],
        [(1, 0.0, 0.0, 0.0)],
        [("10", 1.0, 1.0, 1.0), ("all", 1.0, 1.0, 1.0)],
        [(10, 0.5, math.nan, math.nan), (20, math.nan, 0.1, 0.2), ("all", 0.9, math.nan, 0.95)],
    ],
)
def test_efficiency_of_single_points_and_missing_intervals(points):
    assert decoded(pictures.efficiency({HOSTILE: points, "raw pixels": points})).std() > 0


def test_efficiency_without_a_single_accuracy():
    with pytest.raises(ValueError, match="at least one finite accuracy"):
        pictures.efficiency({"simclr": [(10, math.nan, 0, 1)]})


@pytest.mark.parametrize("k", [1, 2, 12, 13, 200])
def test_projection_of_few_and_many_classes(k):
    rng = np.random.default_rng(0)
    classes = [f"class {i % k}" for i in range(300)]
    pixels = decoded(pictures.projection(rng.normal(size=(300, 2)), classes))
    grey = has(pixels, "#e2e5ea")
    assert (grey > 30) == (k > 12), "rarer classes are grey"
    assert (pixels.std(-1) > 20).sum() > 500, "the others have a colour"


def test_projection_of_hostile_names_and_points_that_coincide():
    pictures.projection(np.zeros((4, 2)), [HOSTILE, "$", "", "raw"])
    with pytest.raises(ValueError, match=r"3 classes for points \[4, 2\]"):
        pictures.projection(np.zeros((4, 2)), ["a"] * 3)


def test_corruptions_have_a_bar_and_a_dot_a_severity():
    high, low = (
        decoded(pictures.corruptions({"fog": [v] * 5, "snow": [v, v, v, v, 0.1]}, 0.9, 0.1)) for v in (0.8, 0.3)
    )
    assert high.shape == low.shape
    bar = [int((abs(p.astype(int) - [185, 220, 243]).sum(-1) < 40).sum()) for p in (high, low)]
    assert bar[0] > 1.8 * bar[1] > 0
    assert has(high, "#0072b2") > 20
    pictures.corruptions({HOSTILE: [0.0] * 5}, 0.0, 0.0)  # nothing right at all


def test_labels_keep_their_distance_and_their_order():
    values = sorted(np.random.default_rng(1).random(30))
    moved = apart(values, 0.05)
    assert (np.diff(moved) >= 0.05 - 1e-9).all()
    assert sum(moved) == pytest.approx(sum(values))  # nobody is pushed further than needed
    assert apart([0.1, 0.5, 0.9], 0.05) == [0.1, 0.5, 0.9]


# what they share


def test_a_methods_colour_does_not_depend_on_its_company():
    alone = marks(["digits_simclr"])["digits_simclr"]
    assert marks(["digits_simclr", "digits_rotation", "raw pixels", "supervised"])["digits_simclr"] == alone
    assert marks(["Random encoder, linear probe"])["Random encoder, linear probe"].dash != "-"


def test_no_two_methods_of_one_picture_look_the_same():
    names = [f"recipe_{i}" for i in range(30)] + ["random encoder", "raw pixels", "supervised"]
    assert len(set(marks(names).values())) == len(names)
    assert marks(names) == marks(reversed(names))


def test_plain_text():
    assert plain("a\n b\t\x07c") == "a b c"
    assert plain("x" * 30, 10) == "x" * 9 + "…"
    assert plain(7) == "7"
    plain(HOSTILE).encode()


def test_the_same_input_gives_the_same_bytes_also_from_threads():
    draw = {
        "sheet": lambda: pictures.sheet(np.eye(28)[None, None, None], ["one"]),
        "curves": lambda: pictures.curves(log(30, accuracy=0.5), 400, 6.2),
        "confusion": lambda: pictures.confusion(np.eye(3), list("abc")),
        "efficiency": lambda: pictures.efficiency({"simclr": [(10, 0.5, 0.4, 0.6)]}),
    }
    once = {name: picture() for name, picture in draw.items()}
    again: dict[str, bytes] = {}
    threads = [threading.Thread(target=lambda n=n, p=p: again.__setitem__(n, p())) for n, p in draw.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert once == again


def test_pictures_leave_pyplot_alone():
    import subprocess
    import sys

    code = (
        "import sys, numpy; from ssl_pipeline.report import pictures; assert 'matplotlib' not in sys.modules;"
        "pictures.confusion(numpy.eye(2), ['a', 'b']); assert 'matplotlib.pyplot' not in sys.modules;"
        "assert not {'torch', 'mlflow', 'dvc', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
