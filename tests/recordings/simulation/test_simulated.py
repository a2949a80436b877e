"""Simulated recordings: the folder is sound, reproducible, and its truth is the expectation of what was recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omnimouse.recordings import Windows, open_recording
from omnimouse.recordings.simulation import simulated
from omnimouse.recordings.simulation.behavior import ornstein_uhlenbeck
from omnimouse.recordings.simulation.neurons import Encoder, draw_population, shift_frames
from omnimouse.recordings.simulation.scan import resample, scan_weights
from omnimouse.recordings.simulation.session import shared_gain
from omnimouse.recordings.simulation.settings import random_stream
from omnimouse.recordings.simulation.simulated import (
    SimulationSettings,
    correlation_ceiling,
    load_truth,
    simulate_recording,
)
from omnimouse.recordings.simulation.stimuli import GRAY, plan_presentations, render_clip

TINY = SimulationSettings(clip_seconds=3.0, oracle_repeats=2, blink_rate=0.1, blank_probability=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "mouse"
    simulate_recording(path, 3, n_neurons=9, minutes=0.5, animal="sim007", session=2, scan=4, settings=TINY)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def stored_responses(folder: Path) -> np.ndarray:
    return np.load(folder / "responses" / "data.npy")


def test_folder_opens_without_complaint(folder: Path) -> None:
    recording = open_recording(folder)
    assert recording.session_key == "sim007-2-4"
    assert recording.n_neurons == 9
    assert sorted(recording.tiers) == ["final_test", "oracle", "train", "validation"]
    assert [str(finding) for finding in recording.validate() if finding.severity != "info"] == []
    assert 1.6e9 < recording.start_time < 1.8e9
    assert {trial.modality for trial in recording.trials} == {"video", "blank"}


def test_mice_of_different_seeds_are_different_animals_with_different_neurons(tmp_path):
    one, other = (
        simulate_recording(tmp_path / f"{seed}", seed, n_neurons=4, minutes=0.5, settings=TINY) for seed in (1, 2)
    )
    assert (one.session_key, one.animal_id, other.session_key) == ("sim001-1-1", "sim001", "sim002-1-1")
    assert not set(one.unit_ids) & set(other.unit_ids)
    again = simulate_recording(tmp_path / "more", 1, n_neurons=6, minutes=0.5, session=2, settings=TINY)
    assert again.animal_id == "sim001" and set(one.unit_ids) < set(again.unit_ids), "the same animal"


def test_windows_hold_video_and_behavior(folder: Path) -> None:
    windows = Windows(open_recording(folder), ["train"], stride=5)
    assert len(windows) > 0
    window = windows[0]
    assert window["responses"].shape == (60, 9)
    assert window["video"].shape == (1, 60, 36, 64)
    assert window["behavior"].shape == (5, 40)
    assert all(bool(values.isfinite().all()) for values in window.values())
    assert float(window["video"].std()) > 0.1


def test_same_seed_gives_same_bytes_and_other_seeds_do_not(folder: Path, tmp_path: Path) -> None:
    arguments = {"n_neurons": 9, "minutes": 0.5, "animal": "sim007", "session": 2, "scan": 4, "settings": TINY}
    simulate_recording(tmp_path / "again", 3, **arguments)
    assert contents(tmp_path / "again") == contents(folder)
    assert contents(tmp_path / "again.truth") == contents(simulated.truth_folder(folder))
    simulate_recording(tmp_path / "other", 4, stimulus_seed=3, **arguments)
    first, other = contents(folder), contents(tmp_path / "other")
    assert set(first) == set(other)
    frames = [name for name in first if name.startswith("screen/data")]
    assert len(frames) >= 5
    assert all(first[name] == other[name] for name in frames)
    assert first["responses/data.npy"] != other["responses/data.npy"]
    assert first["treadmill/data.npy"] != other["treadmill/data.npy"]


def test_only_oracle_clips_repeat(folder: Path) -> None:
    shown: dict[str, list[str]] = {}
    for trial in open_recording(folder).trials:
        if trial.tier is not None:
            shown.setdefault(trial.condition_hash, []).append(trial.tier)
    repeated = [tiers for tiers in shown.values() if len(tiers) > 1]
    assert repeated == [["oracle", "oracle"]]


def test_plan_covers_every_tier_and_fits() -> None:
    settings = SimulationSettings()
    for minutes in (1.0, 7.3, 60.0):
        plan = plan_presentations(settings, 5, 60 * minutes)
        tiers = [shown.tier for shown in plan]
        assert set(tiers) == {"train", "validation", "oracle", "final_test"}
        seconds = len(plan) * settings.clip_seconds + sum(shown.blank_seconds for shown in plan)
        assert 0.8 * 60 * minutes < seconds < 60 * minutes
        held_out = {shown.clip for shown in plan if shown.tier != "train"}
        assert held_out.isdisjoint(shown.clip for shown in plan if shown.tier == "train")


def test_devices_have_the_promised_rates_and_units(folder: Path) -> None:
    eye, treadmill = np.load(folder / "eye_tracker" / "data.npy"), np.load(folder / "treadmill" / "data.npy")
    assert eye.shape[1] == 4 and treadmill.shape[1] == 1
    # Both overlap all of the responses' 30 seconds, with a second or two to spare.
    assert 30 < len(eye) / 20 < 32.5 and 30 < len(treadmill) / 100 < 32.5
    missing = np.isnan(eye)
    assert 0 < missing.mean() < 0.2
    assert (missing.any(axis=1) == missing.all(axis=1)).all()
    change = np.diff(eye[:, 0]) * 20
    both = np.isfinite(change)
    assert np.corrcoef(change[both], eye[1:, 1][both])[0, 1] > 0.5
    assert np.isfinite(treadmill).all() and treadmill.min() >= 0
    video = np.load(folder / "screen" / "data" / "00001.npy")
    assert video.shape == (90, 36, 64) and video.max() > 150 and video.min() < 100


def test_truth_is_the_expectation_of_the_responses(tmp_path: Path) -> None:
    # With thousands of spikes a second, what is recorded is what was expected: same rows, units and calcium tail.
    settings = replace(TINY, mean_rate=20000.0)
    recording = simulate_recording(tmp_path / "mouse", 1, n_neurons=4, minutes=0.5, settings=settings)
    truth, responses = load_truth(recording), stored_responses(tmp_path / "mouse")
    assert truth is not None
    error = responses - truth.given_everything
    assert np.sqrt(np.square(error).mean(axis=0) / responses.var(axis=0)).max() < 0.03
    assert np.corrcoef(truth.given_everything[:, 0], truth.given_stimulus_and_behavior[:, 0])[0, 1] < 0.98


def test_without_shared_state_both_expectations_agree(tmp_path: Path) -> None:
    settings = replace(TINY, shared_strength=0.0)
    truth = load_truth(simulate_recording(tmp_path / "mouse", 1, n_neurons=3, minutes=0.5, settings=settings))
    assert truth is not None
    np.testing.assert_allclose(truth.given_everything, truth.given_stimulus_and_behavior, rtol=1e-5, atol=1e-6)


def test_responses_and_truth_share_rows_and_are_not_negative(folder: Path) -> None:
    truth, responses = load_truth(folder), stored_responses(folder)
    assert truth is not None
    assert truth.given_everything.shape == truth.given_stimulus_and_behavior.shape == responses.shape == (900, 9)
    assert responses.min() >= 0 and truth.given_everything.min() >= 0 and truth.given_stimulus_and_behavior.min() >= 0
    assert responses.sum() == pytest.approx(truth.given_everything.sum(), rel=0.1)
    assert truth.parameters["seed"] == 3
    assert truth.neurons["centre"].shape == (9, 2)
    assert len(np.unique(np.load(folder / "responses" / "meta" / "unit_ids.npy"))) == 9


def test_ceiling_is_the_correlation_of_truth_and_responses(folder: Path) -> None:
    truth, responses = load_truth(folder), stored_responses(folder)
    assert truth is not None
    rows = np.random.default_rng(0).integers(0, len(responses), 500)
    ceiling = correlation_ceiling(truth, responses, rows)
    for name in ("given_stimulus_and_behavior", "given_everything"):
        expected = [np.corrcoef(getattr(truth, name)[rows, n], responses[rows, n])[0, 1] for n in range(9)]
        np.testing.assert_allclose(getattr(ceiling, name), expected, rtol=1e-6)
    whole = correlation_ceiling(truth, responses)
    assert np.median(whole.given_everything) > np.median(whole.given_stimulus_and_behavior) > 0.2
    silent = responses.copy()
    silent[:, 2] = 0
    assert np.flatnonzero(np.isnan(correlation_ceiling(truth, silent).given_everything)).tolist() == [2]


def test_ceiling_refuses_other_recordings_and_rows(folder: Path) -> None:
    truth, responses = load_truth(folder), stored_responses(folder)
    assert truth is not None
    with pytest.raises(ValueError, match=r"shape \(900, 8\), expected \(900, 9\)"):
        correlation_ceiling(truth, responses[:, :8])
    with pytest.raises(ValueError, match="rows: got 2 rows"):
        correlation_ceiling(truth, responses, np.array([0, 900]))


def test_truth_may_be_absent_but_not_incomplete(tmp_path: Path) -> None:
    assert load_truth(tmp_path / "mouse") is None
    (tmp_path / "mouse.truth").mkdir()
    with pytest.raises(ValueError, match="given_everything"):
        load_truth(tmp_path / "mouse")


def test_truth_of_another_recording_or_cut_short_is_refused(tmp_path: Path) -> None:
    settings = SimulationSettings(clip_seconds=3.0)
    recording = simulate_recording(tmp_path / "mouse", 1, n_neurons=3, minutes=0.5, settings=settings)
    file = tmp_path / "mouse.truth/given_everything.npy"
    array = np.load(file)
    np.save(file, array[:-10])
    with pytest.raises(ValueError, match="another recording"):
        load_truth(recording)
    np.save(file, array)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"given_everything\.npy: not a whole \.npy array"):
        load_truth(recording)


def test_refuses_to_overwrite_and_accepts_an_empty_folder(tmp_path: Path) -> None:
    taken, empty = tmp_path / "taken", tmp_path / "empty"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        simulate_recording(taken, 1, n_neurons=2, minutes=0.5, settings=TINY)
    assert [file.name for file in taken.iterdir()] == ["notes.txt"]
    empty.mkdir()
    simulate_recording(empty, 1, n_neurons=2, minutes=0.5, settings=TINY)
    assert open_recording(empty).n_neurons == 2


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(simulated, "simulate_session", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_recording(tmp_path / "mouse", 1, n_neurons=2, minutes=0.5, settings=TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_neurons": 0}, "n_neurons: got 0, expected an integer of at least 1"),
        ({"n_neurons": 2.5}, "n_neurons: got 2.5"),
        ({"seed": -1}, "seed: got -1"),
        ({"minutes": float("nan")}, "minutes: got nan"),
        ({"minutes": 0.1}, "minutes: got 0.1, expected at least"),
        ({"animal": "a-b"}, "animal: got 'a-b'"),
    ],
)
def test_refuses_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_recording(tmp_path / "mouse", **{"seed": 1, "settings": TINY, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scan_rate", 0.0),
        ("mean_rate", float("inf")),
        ("simple_fraction", 1.2),
        ("wavelength", (20.0, 7.0)),
        ("temporal_frequency", (0.0, 3.0)),
        ("latency", (-0.1, 0.1)),
        ("texture_weight", -1.0),
        ("validation_fraction", 0.9),
        ("gaze_pixels", "large"),
    ],
)
def test_settings_refuse(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        SimulationSettings(**{name: value})


def test_every_spike_is_counted_once_and_never_early() -> None:
    settings = SimulationSettings()
    scan_times = 100 + np.arange(60) / settings.scan_rate
    bins = 101 + np.arange(90) / settings.video_rate
    first, weights = scan_weights(settings, scan_times, bins)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-4)
    assert weights.min() >= 0
    # Frame j holds what happened before its time.
    happens_later = bins[None, :] >= scan_times[first : first + len(weights), None]
    assert weights[happens_later].max() == 0
    parts = np.zeros((60, 90))
    for low in (0, 30, 60):
        start, part = scan_weights(settings, scan_times, bins[low : low + 30])
        parts[start : start + len(part), low : low + 30] += part
    # The tail is cut where less than a hundred-thousandth of a spike is left.
    np.testing.assert_allclose(parts[first : first + len(weights)], weights, atol=1e-5)


def test_resampling_is_linear_interpolation() -> None:
    times = np.array([0.0, 1.0, 2.5, 3.0])
    frames = np.array([[0.0, 8.0], [2.0, 4.0], [5.0, 1.0], [5.0, 3.0]], dtype=np.float32)
    query = np.array([0.25, 1.0, 1.75, 2.9])
    expected = np.stack([np.interp(query, times, column) for column in frames.T], axis=1)
    np.testing.assert_allclose(resample(frames, times, query), expected, rtol=1e-6)


def test_gaze_moves_receptive_fields() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 12, 16)).astype(np.uint8)
    gaze = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, -1.0], [0.5, 0.0]])
    moved = shift_frames(frames, gaze)
    np.testing.assert_array_equal(moved[0], frames[0])
    np.testing.assert_array_equal(moved[1, :, :-2], frames[1, :, 2:])
    np.testing.assert_array_equal(moved[2, 1:], frames[2, :-1])
    np.testing.assert_allclose(moved[3, :, :-1], (frames[3, :, :-1].astype(float) + frames[3, :, 1:]) / 2)


def grating(wavelength: float, orientation: float, phase: float, n_frames: int) -> np.ndarray:
    y, x = np.mgrid[:36, :64]
    carrier = np.cos(2 * np.pi * (x * np.cos(orientation) + y * np.sin(orientation)) / wavelength + phase)
    return np.repeat((GRAY + 60 * carrier)[None], n_frames, axis=0)


def test_neurons_are_causal_tuned_and_simple_or_complex() -> None:
    settings = SimulationSettings(temporal_frequency=(0.5, 0.6), wavelength=(9.0, 10.0))
    population = draw_population(settings, 2, 40)
    encoder = Encoder(population, settings)
    movie = render_clip(settings, 1, 0)[:60].astype(np.float32)
    rates = encoder.rates(movie)
    assert rates.shape == (60 - encoder.history, 40)
    assert rates.min() >= 0
    later = movie.copy()
    later[40:] = 255 - later[40:]
    change = np.abs(encoder.rates(later) - rates).max(axis=1)
    assert change[: 40 - encoder.history].max() < 1e-4
    assert change[40 - encoder.history :].max() > 0.1
    length = encoder.history + 1
    phases = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    cell = {kind: int(np.flatnonzero(population.simple == kind)[0]) for kind in (True, False)}
    spread = {}
    for kind, n in cell.items():
        movies = (grating(population.wavelength[n], population.orientation[n], phase, length) for phase in phases)
        by_phase = np.array([encoder.rates(frames)[0, n] for frames in movies])
        across = grating(population.wavelength[n], population.orientation[n] + np.pi / 2, 0, length)
        assert by_phase.max() > 3 * encoder.rates(across)[0, n]
        spread[kind] = by_phase.std() / by_phase.mean()
    assert spread[True] > 5 * spread[False]


def test_shared_gain_has_mean_one() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 3))
    gain = shared_gain(rng.standard_normal((200_000, 3)), weight)
    np.testing.assert_allclose(gain.mean(axis=0), 1, rtol=0.02)
    assert gain.std(axis=0).min() > 0.3


def test_shared_state_is_stationary_and_slow() -> None:
    process = ornstein_uhlenbeck(np.random.default_rng(0), 200_000, 0.05, np.array([1.0, 3.0]))
    np.testing.assert_allclose(process.std(axis=0), 1, rtol=0.05)
    for column, seconds in enumerate((1.0, 3.0)):
        lagged = np.corrcoef(process[:-20, column], process[20:, column])[0, 1]
        assert lagged == pytest.approx(np.exp(-1.0 / seconds), abs=0.05)


def test_random_streams_are_independent_of_each_other() -> None:
    first = random_stream(1, "gaze").standard_normal(4)
    np.testing.assert_array_equal(first, random_stream(1, "gaze").standard_normal(4))
    assert not np.array_equal(first, random_stream(1, "pupil").standard_normal(4))
    assert not np.array_equal(random_stream(1, "clip", 1).uniform(size=3), random_stream(1, "clip", 2).uniform(size=3))
