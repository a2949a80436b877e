"""What a number of a recording can mean."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from omnimouse.recordings.data.missing import as_missing, no_value
from omnimouse.recordings.data.plausible import (
    adjoining,
    doubt_about_axes,
    doubt_about_duration,
    doubt_about_ids,
    doubt_about_pictures,
    doubt_about_range,
    doubt_about_rate,
    doubt_about_start,
    doubt_about_times,
    doubt_about_trials,
    identity,
)

T = np.arange(1500) / 15.0


@pytest.mark.parametrize("rate", [1, 6.3, 15.5, np.float32(30), 1000])
def test_usual_rates_are_no_doubt(rate: float) -> None:
    assert doubt_about_rate(rate) is None


@pytest.mark.parametrize(
    ("rate", "kind", "said"),
    [
        (1 / 15, "responses", "sampling interval in seconds; as a rate that is 15 Hz"),
        (0.015, "responses", "15"),
        (66_667, "responses", "mHz|microseconds"),
        (1 / 60, "video", "sampling interval"),
        (0.05, "behavior", "as a rate that is 20 Hz"),
        (0, "responses", "rate 0"),
        (float("nan"), "responses", "nan"),
        ("15", "responses", "'15'"),
        (True, "responses", "True"),
    ],
)
def test_a_rate_that_cannot_be_meant_says_what_it_looks_like(rate: object, kind: str, said: str) -> None:
    assert re.search(said, str(doubt_about_rate(rate, kind)))


def test_seconds_are_no_doubt_at_any_zero() -> None:
    for zero in (0.0, 1.5e9, -20.0):
        assert doubt_about_times(T + zero) is None
    assert doubt_about_times(np.array([0.0, 10.0, 25.0]), "video") is None
    assert doubt_about_times(np.array([0.0])) is None


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (T * 1e3, "milliseconds"),
        (T * 1e6, "microseconds"),
        (T * 1e9, "nanoseconds"),
        ((T * 1e9).astype("timedelta64[ns]"), r'divide it by numpy.timedelta64\(1, "s"\)'),
        ((T * 1e9).astype("datetime64[ns]"), "times - times"),
        (np.arange(1500), "frame numbers"),
        (np.arange(1500) * 2.0, "frame numbers"),
        (T / 3600, "hours"),
        (np.array(["0.1", "0.2"]), "float64 seconds"),
    ],
)
def test_times_in_another_unit_are_named(times: np.ndarray, said: str) -> None:
    assert re.search(said, str(doubt_about_times(times)), re.IGNORECASE)


def test_recordings_last_a_week_at_most() -> None:
    assert doubt_about_duration(15 * 3600 * 24 * 6, 15.0) is None
    assert "days" in str(doubt_about_duration(15 * 3600 * 24 * 8, 15.0))


def test_axes_are_contradicted_by_names_and_times_and_doubted_by_their_look() -> None:
    assert doubt_about_axes((3000, 53), 15.0, n_units=53, n_times=3000) is None
    assert doubt_about_axes((53, 53), 15.0, n_units=53) is None
    assert doubt_about_axes((5000, 8000), 8.0) is None  # ten minutes of many neurons
    for known in ({"n_units": 53}, {"n_times": 3000}):
        doubt, proven = doubt_about_axes((53, 3000), 15.0, **known) or (None, False)
        assert proven and "ranspose" in str(doubt)
    doubt, proven = doubt_about_axes((53, 3000), 15.0) or (None, True)
    assert not proven and "3000 samples would last 200 s" in str(doubt)


def test_frames_taller_than_wide_look_transposed() -> None:
    assert doubt_about_pictures(36, 64) is None and doubt_about_pictures(64, 64) is None
    assert "swapaxes" in str(doubt_about_pictures(64, 36))


def test_trials_on_another_clock_are_named() -> None:
    starts = np.arange(0, 290, 10.0)
    ends = starts + 9

    def doubt(a: np.ndarray, b: np.ndarray, zero: float = 0.0) -> tuple[str, bool] | None:
        result = doubt_about_trials(a, b, start=zero, end=zero + 300.0, rate=15.0)
        return result and (str(result[0]), result[1])

    assert doubt(starts, ends) is None
    for factor, unit in ((1e3, "milliseconds"), (1e9, "nanoseconds"), (15.0, "frame numbers")):
        said, most = doubt(starts * factor, ends * factor) or ("", False)
        assert unit in said and most
    said, most = doubt(starts, ends, 1.5e9) or ("", False)
    assert "1970" in said and most
    said, most = doubt(starts + 20, ends + 20) or ("", True)
    assert "outside" in said and not most


def test_a_device_that_ends_long_before_the_responses_is_named_with_its_time() -> None:
    assert doubt_about_range("treadmill", (0.0, 299.0), (0.0, 300.0)) is None
    assert doubt_about_range("treadmill", (0.0, 3500.0), (0.0, 3600.0)) is None
    said = str(doubt_about_range("treadmill", (0.0, 100.0), (0.0, 300.0), 60.0))
    assert "treadmill ends at 100.00 s, 200.00 s before" in said and "At 20 Hz instead of 60 Hz" in said
    assert "after" in str(doubt_about_range("video", (0.0, 600.0), (0.0, 300.0)))
    assert "15.00 s before" in str(doubt_about_range("treadmill", (0.0, 15.0), (0.0, 30.0)))
    assert doubt_about_start("eye_tracker", (10.0, 300.0), (0.0, 300.0)) is None
    assert "begins at 150.00 s" in str(doubt_about_start("eye_tracker", (150.0, 300.0), (0.0, 300.0)))


def test_overlaps_by_rounding_are_cut_and_larger_ones_kept() -> None:
    starts = np.arange(30) * 8.1
    ends = adjoining(starts, starts + 8.1)
    assert (ends[:-1] <= starts[1:]).all() and np.abs(ends - starts - 8.1).max() < 1e-6
    assert adjoining(np.array([0.0, 1.0]), np.array([1.5, 2.0])).tolist() == [1.5, 2.0]


def test_what_is_written_for_nothing_is_missing() -> None:
    size = np.random.default_rng(0).uniform(20, 80, 1000)
    for fill in (np.nan, np.inf, -np.inf, -9999.0, 1e20, 9.96921e36, -999.0):
        values = size.copy()
        values[10:20] = fill
        assert np.flatnonzero(no_value(values)).tolist() == list(range(10, 20)), fill
    masked = np.ma.masked_less(size, 30.0)
    assert np.array_equal(np.isnan(as_missing(masked)), size < 30)
    for fill, dtype in ((-9999, np.int16), (65535, np.uint16), (np.iinfo(np.int64).min, np.int64)):
        counts = np.array([1, 5, fill, 3], dtype=dtype)
        assert np.isnan(as_missing(counts)).tolist() == [False, False, True, False]


def test_a_number_among_others_is_a_value_even_if_labs_write_it_for_nothing() -> None:
    ramp = np.arange(-20_000.0, 20_000.0)
    assert not no_value(ramp).any() and as_missing(ramp) is ramp
    assert not no_value(np.array([0, 255], dtype=np.uint8)).any()


@pytest.mark.parametrize(
    "nothing", [None, np.nan, np.float32("nan"), np.datetime64("NaT"), "", " ", "nan", "None", "N/A", "NULL", "<NA>",
                b"", -1, -1.0, "-1", np.ma.masked, "-", -999, -99.0, -(2**63), "-9999.0", 1e20, np.inf, "unknown",
                "#N/A", [np.nan], np.array(np.nan), torch.tensor(float("nan"))]
)  # fmt: skip
def test_placeholders_identify_nothing(nothing: object) -> None:
    assert identity(nothing) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [(0, "0"), (3.0, "3.0"), ("nana", "nana"), (b"grating  ", "grating"), (torch.tensor(3), "3"), (9999, "9999"),
     (2**63 + 5, str(2**63 + 5)), ("12345678901234567890", "12345678901234567890")],
)  # fmt: skip
def test_identities_are_text(value: object, name: str) -> None:
    assert identity(value) == name


def test_neurons_are_named_each_by_its_own() -> None:
    assert doubt_about_ids(np.arange(-1, 4), 5) is None
    assert doubt_about_ids(["a", "b"], 2) is None
    assert "1 missing" in str(doubt_about_ids([1.0, np.nan], 2))
    assert "1 distinct of 2" in str(doubt_about_ids([7, 7], 2))
    assert "3 distinct of 3, expected 2" in str(doubt_about_ids([1, 2, 3], 2))
