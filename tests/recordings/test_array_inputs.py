"""Arrays in other axes, units, spellings and libraries: taken for what they are, or refused by what they look like."""

from __future__ import annotations

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from omnimouse import OmniMouseProcessor, Windows, recording_from_arrays
from omnimouse.recordings import describe, plot_recording, save_recording
from omnimouse.recordings.views import overview

RNG = np.random.default_rng(0)
SECONDS = 100
X = RNG.gamma(0.4, 2, (SECONDS * 15, 20)).astype(np.float32)
T = np.arange(len(X)) / 15
SPEED = RNG.gamma(1, 1, SECONDS * 20)
MOVIE = RNG.integers(0, 256, (SECONDS * 10, 36, 64), dtype=np.uint8)
RATES = {"responses": 15.0, "behavior": 20.0, "video": 10.0}
STRICT = OmniMouseProcessor(profile="strict")
TRIALS = [(i * 10.0, i * 10 + 9.0, "train") for i in range(10)]


def make(responses=X, rate=15.0, **arguments):
    return recording_from_arrays(responses, rate, **arguments)


def said(recording, field: str) -> str:
    return " ".join(str(finding) for finding in recording.validate() if finding.field == field)


def scaled(factor: float) -> list:
    return [(start * factor, end * factor, tier) for start, end, tier in TRIALS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"responses": X.T, "unit_ids": np.arange(20)}, "20 neurons are named.*Transpose it"),
        ({"responses": X.T, "rate": None, "times": T}, "1500 times are given.*Transpose"),
        ({"responses": X.T, "behavior": {"running_speed": X[:, 0]}}, "rows of 'running_speed'.*Transpose"),
        ({"responses": X.T, "rate": RATES, "behavior": {"running_speed": SPEED}}, "lasts 100 s.*transpose it"),
        ({"responses": X.T, "rate": RATES, "video": MOVIE}, "'video' lasts 100 s.*transpose it"),
        ({"behavior": X[:, :5].T}, r"looks transposed: pass behavior\.T"),
        ({"rate": RATES, "video": np.moveaxis(MOVIE, 0, -1)}, "fit its last axis.*moveaxis"),
        ({"times": {"video": np.arange(1000) / 10}, "video": np.moveaxis(MOVIE, 0, -1)}, "fit its last axis"),
        ({"rate": RATES, "video": np.moveaxis(MOVIE, 0, -1), "video_index": np.arange(1000)}, "fit its last axis"),
        ({"rate": 1 / 15}, "sampling interval in seconds; as a rate that is 15 Hz"),
        ({"rate": {**RATES, "behavior": 0.05}, "behavior": {"gaze_x": SPEED}}, "'gaze_x': rate 0.05.*is 20 Hz"),
        ({"rate": None, "times": T * 1e3}, "milliseconds"),
        ({"rate": None, "times": T * 1e6}, "microseconds"),
        ({"rate": None, "times": (T * 1e9).astype("timedelta64[ns]")}, "timedelta64"),
        ({"rate": None, "times": pd.to_datetime(T, unit="s")}, "datetime64"),
        ({"rate": None, "times": np.arange(1500)}, "frame numbers"),
        ({"times": {"behavior": np.arange(2000) * 50.0}, "behavior": {"gaze_x": SPEED}}, "'gaze_x'.*milliseconds"),
        ({"times": {"video": np.arange(1000) * 1e5}, "video": MOVIE}, "video: times.*microseconds"),
        ({"times": {"gaze_x": np.r_[np.arange(99) / 1e4, 5e5]}, "behavior": {"gaze_x": SPEED[:100]}}, "all gaps"),
        ({"rate": {"responses": 15, "vidoe": 10}, "video": MOVIE}, "rate: 'vidoe' is the name of no array"),
        ({"rate": {**RATES, "wheel": 20}}, "'wheel' is the name of no array.*none was given"),
        ({"rate": {**RATES, "run": 20}, "behavior": {"running_speed": SPEED}}, "'run'.*mean 'running_speed'"),
        ({"times": {"vid": np.arange(1000) / 10}, "video": MOVIE}, "times: 'vid' is the name of no array"),
        ({"behavior": {"gaze_x": SPEED, "gaze_y": SPEED}}, "'gaze_x': 2000 rows.*\"behavior\".*'gaze_x' for it alone"),
        ({"responses": np.c_[X, T]}, "column 20 rises from each sample to the next"),
        ({"responses": pd.DataFrame(X).assign(t=T)}, r"column 20 \('t'\) rises"),
        ({"responses": "spks.npy"}, "'spks.npy' is a name.*numpy.load"),
        ({"responses": {"a": X, "b": X}}, "dict of a, b, expected one array"),
        ({"video": MOVIE, "rate": RATES, "video_index": {"index": T, "times": T}}, "video_index: dict of index, times"),
        ({"video": MOVIE, "rate": RATES, "video_index": ["a", "b"]}, "video_index: shape.*largest -"),
        ({"behavior": {"pupil": pd.DataFrame({"x": SPEED, "y": SPEED})}}, "'pupil': a table of x, y.*one by one"),
        ({"trials": "trials.csv"}, "pandas.read_csv"),
        ({"block_seconds": 1e-9}, "block_seconds: 1e-09, expected at least 2"),
        ({"trials": scaled(1e3)}, "milliseconds"),
        ({"trials": scaled(1e9)}, "nanoseconds"),
        ({"trials": scaled(15)}, "frame numbers: divide them by 15"),
        ({"trials": [(a + 1.5e9, b + 1.5e9, c) for a, b, c in TRIALS]}, "1970"),
        ({"trials": [(0.0, 9.0, None)]}, "None is no tier"),
        ({"trials": [(0.0, 9.0, float("nan"))]}, "nan is no tier"),
        ({"trials": 5}, "int, expected rows of"),
        ({"trials": pd.DataFrame({"start": [0.0], "stop": [9.0]})}, "no column of tier among start, stop"),
        (
            {"trials": pd.DataFrame({"start": pd.to_timedelta([0], "s"), "end": [9.0], "tier": "a"})},
            "'start': dtype timedelta64",
        ),
        ({"unit_ids": np.r_[np.arange(19.0), np.nan]}, "1 missing, 19 distinct of 20"),
        ({"behavior": {"running": SPEED, "running_speed": SPEED}, "rate": RATES}, "both mean running_speed"),
        ({"behavior": {"gaze_x": np.array([1, "a"] * 1000, dtype=object)}, "rate": RATES}, "dtype object"),
        ({"responses": torch.eye(20).to_sparse()}, "pass value.to_dense"),
        ({"responses": torch.rand(30, 4, dtype=torch.complex64)}, "expected real numbers"),
        ({"responses": X.tolist()}, "numpy.asarray"),
        ({"responses": pd.DataFrame({"a": ["x", "y"]})}, "expected real numbers"),
        ({"rate": {**RATES, "vidoe": 30.0}}, "'vidoe' is the name of no array"),
        ({"times": {"eye": T}}, "times: 'eye' is the name of no array"),
        ({"rate": 30.0, "times": T}, "rate 30 Hz, but its times are those of 15 Hz"),
        ({"split": [0.8, 0.2]}, "expected tiers with shares"),
        ({"split": {"train": "most"}}, "expected tiers with shares"),
        ({"split": {None: 1}}, "expected tiers with shares"),
        ({"block_seconds": "60"}, "block_seconds: '60', expected at least 2"),
        ({"video": MOVIE, "rate": RATES, "video_range": "01"}, "video_range: '01', expected the values"),
        ({"video": MOVIE, "rate": RATES, "video_range": 255}, "video_range: 255, expected the values"),
        ({"video": MOVIE, "rate": RATES, "video_range": (None, 255)}, "expected the values of black"),
        ({"video": MOVIE, "rate": RATES, "blank_level": "grey"}, "blank_level: 'grey', expected a grey level"),
        ({"video": MOVIE, "rate": RATES, "blank_level": np.nan}, "blank_level: nan"),
        ({"behavior": X[:, :2], "channels": ["gaze_x", "gaze_x"]}, "one for each column"),
        ({"behavior": X[:, :6], "channels": "gaze_x"}, "one for each column"),
        ({"session_key": None}, "session_key: None, expected a name"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_what_it_looks_like(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_what_only_looks_turned_or_slow_is_a_finding():
    assert "looks transposed" in said(make(X.T), "axes")
    assert "swap these axes" in said(make(rate=RATES, video=MOVIE.swapaxes(1, 2)), "axes")
    wrong = {**RATES, "behavior": 100.0, "video": 60.0}
    found = said(make(rate=wrong, behavior={"running_speed": SPEED}, video=MOVIE), "end")
    assert "treadmill ends at 20.00 s, 80.00 s before" in found and "At 20 Hz instead of 100 Hz" in found
    assert "screen ends at 16.67 s" in found
    assert "1 of 11 trials outside, the first from 110 to 119" in said(make(trials=[*TRIALS, (110, 119, "a")]), "times")
    assert "minutes" in said(make(trials=scaled(1 / 60)), "times")


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"behavior": {"running_speed": X[:, 0].cumsum()}}, "signals that only rise", "position of a wheel"),
        ({"rate": RATES, "video": np.full_like(MOVIE, 128)}, "contrast", "128 in every pixel"),
        ({"rate": {**RATES, "responses": 30.0}, "video": MOVIE}, "end", "screen ends at 100.00 s, 50.00 s after"),
        (
            {"behavior": {"gaze_x": X[750:, 0]}, "times": {"behavior": T[750:]}, "rate": {"responses": 15.0}},
            "start",
            "eye_tracker begins at 50.00 s",
        ),
        ({"trials": [(a, b, "Train") for a, b, _ in TRIALS]}, "tier", "it may be 'Train'"),
        ({"session_key": "a/b"}, "scan_key", "a/b"),
    ],
)  # fmt: skip
def test_what_can_hardly_be_meant_is_a_warning(arguments, field, words, tmp_path):
    recording = make(**arguments)
    assert re.search(words, said(recording, field))
    saved = save_recording(recording, tmp_path / "saved")
    assert field in {finding.field for finding in saved.validate() if finding.severity == "warning"}


def test_tiers_and_conditions_are_read_without_the_spaces_of_fixed_widths():
    trials = [(start, end, "train   ", "a" if start else "a  ") for start, end, _ in TRIALS]
    assert {(trial.tier, trial.condition_hash) for trial in make(trials=trials).trials} == {("train", "a")}


def test_a_sound_recording_is_no_doubt():
    recording = make(rate=RATES, behavior={"running_speed": SPEED}, video=MOVIE, trials=TRIALS, unit_ids=np.arange(20))
    assert [str(finding) for finding in recording.validate() if finding.severity != "info"] == []
    turned = make(RNG.gamma(0.4, 2, (1500, 1800)).astype(np.float32))  # more neurons than samples, over 100 s
    assert said(turned, "axes") == ""


@pytest.mark.parametrize("fill", [-9999.0, 1e20, np.inf, -np.inf, np.nan])
def test_what_stands_for_no_value_is_missing(fill, tmp_path):
    speed, responses = SPEED.copy(), X.copy()
    speed[200:300] = fill
    responses[30:40, 3] = fill
    recording = make(responses, RATES, behavior={"running_speed": speed})
    assert np.flatnonzero(np.isnan(recording.treadmill.data[:, 0])).tolist() == list(range(200, 300))
    starts = Windows(recording, "train", processor=STRICT).starts
    assert len(starts) and not ((starts > 8.1) & (starts < 14.9)).any()
    assert np.isnan(recording.responses.read(np.arange(30, 40))[:, 3]).all()
    assert np.allclose(recording.statistics(recording.responses)[1][3], np.nanstd(train_rows(recording), axis=0)[3])
    assert "1 of 20 signals" in said(recording, "NaN values")
    assert np.isnan(save_recording(recording, tmp_path / "saved").responses.data[30:40, 3]).all()


def train_rows(recording) -> np.ndarray:
    rows = np.concatenate(
        [np.arange(part.start, part.stop) for part in recording.row_ranges(recording.responses, ["train"])]
    )
    return recording.responses.read(rows).astype(np.float64)


def test_masked_arrays_and_integers_with_fills_are_missing_too():
    masked = np.ma.masked_array(X, mask=np.zeros(X.shape, dtype=bool))
    masked[7, 2] = np.ma.masked
    assert np.argwhere(np.isnan(make(masked).responses.read(np.arange(20)))).tolist() == [[7, 2]]
    behavior = make(rate=RATES, behavior={"gaze_x": np.ma.masked_greater(SPEED, 3)})
    assert np.array_equal(np.isnan(behavior.eye_tracker.data[:, 0]), SPEED > 3)
    counts = RNG.poisson(1, X.shape).astype(np.int16)
    assert make(counts).responses.dtype == "int16"
    counts[:50, 1] = -9999
    device = make(counts).responses
    assert device.dtype == "float32" and np.isnan(device.read(np.arange(50))[:, 1]).all()
    none = make(rate=RATES, behavior={"gaze_x": [None, *SPEED[1:]]}).eye_tracker.data
    assert np.isnan(none[0]).all() and not np.isnan(none[1:]).any()


@pytest.mark.parametrize(
    ("name", "channel"), [("running", "running_speed"), ("Pupil_Diameter", "pupil_size"), ("pupil x (px)", "gaze_x")]
)
def test_names_that_nearly_fit_are_read_and_said(name, channel):
    recording = make(rate={"responses": 15.0, name: 20.0}, behavior={name: SPEED})
    assert channel in recording.behavior_channels
    assert f"found {name!r}. It is read as {channel}" in said(recording, channel)


def test_names_that_mean_no_channel_are_warned_about():
    with pytest.warns(UserWarning, match="'whisking': no channel that models know"):
        make(rate=RATES, behavior={"whisking": SPEED})
    with pytest.warns(UserWarning, match="Did you mean running_speed"):
        make(rate=RATES, behavior={"runing_sped": SPEED})


def test_arrays_of_other_libraries_are_the_same_recording():
    plain = make(rate=RATES, behavior={"running_speed": SPEED}, video=MOVIE, trials=TRIALS)
    window = Windows(plain, "train", processor=STRICT)[5]
    table = pd.DataFrame(TRIALS, columns=["start_time", "stop_time", "tier"])
    for responses, behavior, video, trials in (
        (torch.from_numpy(X), {"running_speed": torch.from_numpy(SPEED)}, torch.from_numpy(MOVIE), table),
        (pd.DataFrame(X), pd.DataFrame({"running_speed": SPEED}), MOVIE, table.to_dict("records")),
        (np.asfortranarray(X), {"running_speed": pd.Series(SPEED)}, MOVIE, table.to_dict("list")),
    ):
        other = make(responses, RATES, behavior=behavior, video=video, trials=trials)
        again = Windows(other, "train", processor=STRICT)[5]
        assert all(torch.allclose(window[name], again[name], rtol=1e-5, equal_nan=True) for name in window)
    half = make(torch.from_numpy(X).bfloat16().requires_grad_())
    assert np.allclose(half.responses.data, X, rtol=1e-2)


def test_tables_of_trials_go_by_their_columns():
    table = pd.DataFrame(
        {"Onset": [0.0, 20.0, 40.0], "duration": 9.0, "split": "train", "stimulus_id": ["a", None, "nan"], "note": 1}
    )
    trials = make(trials=table).trials
    assert [(t.start, t.end, t.tier, t.condition_hash) for t in trials] == [
        (0.0, 9.0, "train", "a"), (20.0, 29.0, "train", None), (40.0, 49.0, "train", None),
    ]  # fmt: skip


def test_trials_that_adjoin_up_to_rounding_are_accepted():
    for length in (8.1, 10 / 3, 2.3):
        start = np.arange(int(99 / length)) * length
        trials = make(trials=[(a, a + length, "train") for a in start]).trials
        assert all(before.end <= after.start for before, after in itertools.pairwise(trials))
        assert [trial.start for trial in trials] == start.tolist()


def test_the_range_of_a_movie_is_that_of_all_of_it_and_what_is_stated_is_meant():
    movie = RNG.random((1000, 36, 64)).astype(np.float32)
    movie[:300] = 0
    with pytest.raises(ValueError, match=r"video_range=\(0, 1\)"):
        make(rate=RATES, video=movie)
    fades = (movie * 255).astype(np.uint8)
    fades[3, 2, 2] = 1
    assert make(rate=RATES, video=fades).screen.levels == (0.0, 255.0)
    dark = make(rate=RATES, video=movie, video_range=(0, 255))
    assert said(dark, "value range") == ""
    assert said(make(rate=RATES, video=movie, video_range=(0, 1)), "grey levels") == ""


@pytest.mark.parametrize(
    ("movie", "field"),
    [
        (MOVIE.astype(np.uint16) * 16, "grey levels"),
        (MOVIE.view(np.int8), "grey levels"),
        ((MOVIE - 127.0) / 60, "grey levels"),
        (np.where(np.arange(1000)[:, None, None] == 777, np.nan, MOVIE), "pixels"),
        (np.ma.masked_array(MOVIE, mask=MOVIE == 7), "pixels"),
    ],
)
def test_validate_looks_at_every_frame(movie, field, tmp_path):
    recording = make(rate=RATES, video=movie)
    assert said(recording, field)
    if field == "grey levels":
        assert said(save_recording(recording, tmp_path / "saved"), field)


def test_trials_that_were_stored_one_by_one_are_a_recording_with_gaps(tmp_path):
    """As a lab cuts them: 3 s each, 6 s apart, on a clock that nobody recorded in between."""
    starts = np.arange(16) * 6.0
    times = (starts[:, None] + np.arange(48) / 16).ravel()
    responses = X[: len(times)]
    trials = [(start, start + 3, "train") for start in starts]
    recording = make(responses, None, times=times, trials=trials, behavior={"running": np.arange(len(times)) * 0.1})
    assert [str(finding) for finding in recording.validate() if finding.severity != "info"] == []
    windows = Windows(recording, "train", processor=STRICT)
    assert len(windows) > 100 and not torch.isnan(torch.stack([w["responses"] for w in windows])).any()
    inside = (windows.starts[:, None] >= starts) & (windows.starts[:, None] + 59 / 30 < starts + 3)
    assert inside.any(axis=1).all()
    saved = Windows(save_recording(recording, tmp_path / "saved"), "train", processor=STRICT, quiet=True)
    assert len(saved) == len(windows) and torch.equal(saved[40]["responses"], windows[40]["responses"])
    with pytest.raises(ValueError, match=r"times have gaps, the first from 3.* to 6 s. Pass trials="):
        make(responses, None, times=times)
    with pytest.raises(ValueError, match=r"none were recorded from .* but a trial lasts from 6 to 15 s"):
        make(responses, None, times=times, trials=[(0, 3, "train"), (6, 15, "train")])


def test_dimensions_that_name_neurons_first_are_refused_and_lazy_arrays_stay_lazy():
    class Named:
        """Stands for xarray and dask: slices that are arrays, and dimensions by name."""

        def __init__(self, array, dims):
            self.array, self.dims, self.shape, self.dtype = array, dims, array.shape, array.dtype

        def __getitem__(self, part):
            return self.array[part]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lazy = Named(X, ("time", "unit"))
        assert make(lazy).responses.data is lazy
    with pytest.raises(ValueError, match=re.escape("dimensions unit, time")):
        make(Named(X.T, ("unit", "time")))


def test_one_mapping_of_rates_serves_recordings_that_lack_some_of_its_devices():
    rates = {**RATES, "running_speed": 20, "wheel_speed": 20, "pupil_size": 30}
    assert make(rate=rates).responses.sampling_rate == 15
    assert make(rate=rates, behavior={"wheel_speed": SPEED}).treadmill.sampling_rate == 20


def test_rates_begin_where_the_responses_begin():
    recording = make(rate=RATES, times={"responses": T + 100}, video=MOVIE, behavior={"gaze_x": SPEED})
    starts = (recording.responses, recording.eye_tracker)
    assert [device.start_time for device in starts] == [100, 100] and recording.screen.timestamps[0] == 100


def test_trials_on_a_clock_that_starts_at_another_time_are_told_so():
    late = [(start + 30, end + 30, tier) for start, end, tier in TRIALS]
    with pytest.warns(UserWarning, match="lie within it 29 to 30 s earlier"):
        recording = make(trials=late)
    assert "lie within it 29 to 30 s earlier" in said(recording, "times")
    with pytest.warns(UserWarning, match="1 of 11 trials outside.*of the responses.$"):
        make(trials=[*TRIALS, (110, 119, "train")])


def test_a_recording_is_shown_in_one_line_whatever_its_length():
    recording = make(rate=RATES, video=MOVIE, behavior={"run": SPEED}, trials=TRIALS, session_key="m1-2-3")
    assert repr(recording) == (
        "<ArrayRecording m1-2-3 (arrays of m1-2-3): 20 neurons at 15 Hz, 0 to 100 s, video, behavior: running_speed, "
        "tiers: train (10 trials)>"
    )


def test_findings_name_channels_and_tiers_as_they_were_given():
    speed = np.where(np.arange(len(SPEED)) < 20, np.nan, SPEED)
    recording = make(rate=RATES, behavior={"gaze_y": speed}, trials=[(a, b, "training") for a, b, _ in TRIALS])
    assert "1.00% of gaze_y" in said(recording, "NaN values")
    assert "'train' among the tiers, found training" in said(recording, "tier")
    assert "found none." in said(make(), "behavior channels")


def test_time_in_no_trial_is_counted_apart_from_what_was_shown(tmp_path):
    saved = save_recording(make(rate=RATES, video=MOVIE, trials=TRIALS), tmp_path / "saved")
    assert describe(saved)["modalities"] == {"video": 10, "unused": 10}
    assert "10 videos" in plot_recording(saved, tmp_path / "picture.svg").read_text()
    edges = overview.bin_edges(0, SECONDS, 50)
    assert np.nanmax(overview.frame_intervals(saved.screen, edges)[1]) == pytest.approx(0.1)
