from __future__ import annotations

import numpy as np

from ssl_pipeline.encoders.lines import COLORS, draw_lines


def rows_of_ink(picture: np.ndarray) -> np.ndarray:
    """The middle of the ink of each column, NaN where there is none."""
    ink = (1 - picture).sum(0)
    with np.errstate(invalid="ignore"):
        return (ink * (np.arange(len(ink)) + 0.5)[:, None]).sum(0) / ink.sum(0)


def test_a_ramp_rises_from_the_lower_left_to_the_upper_right():
    picture = draw_lines(np.linspace(-3, 3, 50)[None, None], height=61, width=120)[0]
    rows = rows_of_ink(picture)
    np.testing.assert_allclose(rows, np.linspace(60, 1, 120), atol=0.75)


def test_what_is_out_of_reach_runs_along_the_border():
    picture = draw_lines(np.array([[[9.0, 9.0], [-9.0, -9.0]]]), height=20, width=10, thickness=2)[0]
    np.testing.assert_allclose(picture[:, :2], np.broadcast_to(COLORS[0][:, None, None], (3, 2, 10)), atol=1e-6)
    np.testing.assert_allclose(picture[:, -2:], np.broadcast_to(COLORS[1][:, None, None], (3, 2, 10)), atol=1e-6)
    assert (picture[:, 2:-2] == 1).all()


def test_there_is_no_line_where_values_are_missing():
    values = np.zeros((1, 1, 100), np.float32)
    values[..., 40:60] = np.nan
    blank = (draw_lines(values, width=200)[0] == 1).all((0, 1))
    assert blank[85:115].all() and not blank[:76].any() and not blank[124:].any()


def test_a_spike_of_one_step_among_many_is_seen():
    values = np.zeros((1, 1, 4000), np.float32)
    values[..., 2001] = 2.9
    assert (draw_lines(values)[0].min(0)[:10] < 0.5).any()
    assert draw_lines(np.zeros((2, 1, 1))).shape == (2, 3, 96, 192)  # one step
