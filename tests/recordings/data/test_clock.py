"""Time arithmetic against slow and obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnimouse.recordings.data.clock import (
    FRAME_TOLERANCE,
    frame_indices,
    have_common_time,
    inside,
    nan_free_intervals,
    query_times,
    sequence_rows,
    time_grid,
)

EPOCH = 1520193100.5945


def test_the_published_grid_drifts_and_the_exact_one_does_not():
    published = time_grid(EPOCH, EPOCH + 7200, 30.0, "linspace")
    exact = time_grid(EPOCH, EPOCH + 7200, 30.0, "exact")
    assert published.tobytes() == np.arange(EPOCH, EPOCH + 7200, 1 / 30).tobytes()
    assert abs(published[-1] - (EPOCH + (len(published) - 1) / 30)) > 3e-3
    assert len(exact) == 216000
    assert abs(exact[-1] - (EPOCH + 215999 / 30)) < 1e-6
    assert len(time_grid(EPOCH, EPOCH - 1, 30.0, "exact")) == 0


def test_a_grid_has_as_many_points_as_samples_fit_whatever_the_epoch():
    for count in range(1, 400):
        for rate in (30.0, 20.0, 7.7):
            assert len(time_grid(EPOCH, EPOCH + count / rate, rate, "exact")) == count
            assert len(time_grid(EPOCH, EPOCH + count / rate + 1e-4, rate, "exact")) == count + 1


def test_intervals_begin_with_their_first_moment_and_end_before_their_last():
    times = np.array([0.9, 1.0, 1.9, 2.0, 2.5, 3.0, 3.9, 4.0, 5.0])
    expected = [False, True, True, False, False, True, True, False, False]
    assert inside(times, np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == expected
    assert not inside(times, np.zeros((0, 2))).any()


def test_query_times_of_the_two_pipelines():
    assert query_times(EPOCH, 30.0, 60, "linspace")[59] == np.linspace(EPOCH, EPOCH + 2, 60, endpoint=False)[59]
    integer = query_times(np.float64(EPOCH), 30.0, 60, "integer")
    # Steps of 3333 ticks of 10 us end the window 0.2 ms early.
    assert integer[59] - EPOCH == pytest.approx(59 * 0.03333, abs=1e-6)
    assert query_times(EPOCH, 30.0, 60, "exact")[59] - EPOCH == pytest.approx(59 / 30, abs=1e-6)


@given(
    offset=st.integers(0, 10_000),
    device_rate=st.sampled_from([30.0, 20.0, 100.0, 19.97, 75.31]),
    query_rate=st.sampled_from([30.0, 20.0]),
    start=st.floats(0, 2e9),
)
def test_exact_rows_survive_the_rounding_of_epoch_times(offset, device_rate, query_rate, start):
    """A window that starts at sample k of the device reads sample floor(k + i * ratio), whatever the epoch."""
    rows = sequence_rows(
        np.float64(start + offset / device_rate),
        query_rate,
        40,
        device_start=start,
        device_rate=device_rate,
        time_rule="exact",
    )
    expected = [int(np.floor(offset + i * device_rate / query_rate + 1e-5)) for i in range(40)]
    # One part in 1e5 of a sample is far inside the tolerance; ratios such as 19.97 / 30 never come that close.
    assert rows.tolist() == expected


def test_rows_with_shifts_have_one_column_per_signal():
    shifts = np.array([0.0, 0.02, -0.05])
    for rule in ("linspace", "integer", "exact"):
        rows = sequence_rows(
            np.float64(EPOCH + 1.01), 30.0, 60, device_start=EPOCH, device_rate=30.0, time_rule=rule, shifts=shifts
        )
        single = [
            sequence_rows(
                np.float64(EPOCH + 1.01 - shift), 30.0, 60, device_start=EPOCH, device_rate=30.0, time_rule="exact"
            )
            for shift in shifts
        ]
        assert rows.tolist() == np.stack(single, axis=1).tolist()


def test_frames_are_the_last_ones_shown_up_to_a_tenth_of_a_millisecond_later():
    timestamps = np.array([0.0, 0.1, 0.25, 0.3])
    times = np.array([0.0, 0.0998, 0.09995, 0.1, 0.26, 0.9])
    assert frame_indices(times, timestamps).tolist() == [0, 0, 1, 1, 2, 3]
    assert frame_indices(np.zeros(1), np.array([0.0, FRAME_TOLERANCE])).tolist() == [0]  # the very edge, as published


@st.composite
def _nans(draw):
    n_rows = draw(st.integers(1, 60))
    rows = sorted(draw(st.sets(st.integers(0, n_rows - 1))))
    return n_rows, np.array(rows, dtype=np.int64), draw(st.sampled_from([0.0, 0.01, 0.06, 0.15, 3.0]))


@given(_nans())
def test_nan_free_intervals_against_asking_every_time(case):
    n_rows, rows, buffer = case
    rate, start = 20.0, 100.0
    end = start + n_rows / rate + 0.1
    intervals = nan_free_intervals(rows, start=start, end=end, rate=rate, buffer=buffer)
    assert (intervals[:, 0] < intervals[:, 1]).all() and (intervals[1:, 0] > intervals[:-1, 1] - 1e-12).all()
    times = np.linspace(start, end, 500, endpoint=False) + 1e-7
    at = start + rows * (1 / rate)
    expected = [not any(center - buffer <= time < center + buffer for center in at) for time in times]
    assert inside(times, intervals).tolist() == expected


@given(st.lists(st.lists(st.integers(0, 30), min_size=2, max_size=8, unique=True), min_size=1, max_size=3))
def test_common_time_against_asking_every_time(lists):
    intervals = [np.array(sorted(edges)[: len(edges) // 2 * 2], dtype=np.float64).reshape(-1, 2) for edges in lists]
    halves = np.arange(0, 31) + 0.5
    expected = any(all(any(a <= time < b for a, b in each) for each in intervals) for time in halves)
    assert have_common_time(intervals) == expected
    assert have_common_time([*intervals, np.zeros((0, 2))]) is False
