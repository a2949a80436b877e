"""Responses faster than windows are averaged under the strict profile and picked under the published ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from omnimouse import OmniMouseProcessor, Windows, recording_from_arrays
from omnimouse.recordings import mean_responses, save_recording
from omnimouse.recordings.pooling import PooledDevice, pooled, response_scale

STRICT = OmniMouseProcessor(profile="strict")


def spikes(rate: float, seconds: int = 40, n: int = 6) -> np.ndarray:
    return (np.random.default_rng(0).random((int(seconds * rate), n)) < 10 / rate).astype(np.uint8)


@pytest.mark.parametrize("rate", [1000.0, 60.0, 50.0, 47.3])
def test_all_samples_of_each_thirtieth_of_a_second_are_averaged(rate: float, tmp_path) -> None:
    stored = spikes(rate)
    recording = recording_from_arrays(stored, rate)
    saved = save_recording(recording, tmp_path / "saved")
    for form in (recording, saved):
        windows = Windows(form, "train", 7, processor=STRICT, quiet=True)
        scale = response_scale(form, STRICT)
        for index in (0, len(windows) // 2, len(windows) - 1):
            start = windows.starts[index]
            # The slow way: sample by sample, by the sample's own time.
            moments = np.arange(len(stored)) / rate
            expected = []
            edges = np.floor((start + np.arange(61) / 30) * rate + 1e-5 * rate) / rate
            for low, high in itertools.pairwise(edges):
                expected.append(stored[(moments > low - 1e-9) & (moments < high - 1e-9)].mean(axis=0))
            np.testing.assert_allclose(windows[index]["responses"].numpy() * scale, np.array(expected), atol=1e-5)
        per_second = np.mean([(windows[i]["responses"].numpy() * scale).mean() for i in range(len(windows))]) * rate
        assert per_second == pytest.approx(10, rel=0.1)
        assert np.std(np.stack([w["responses"] for w in windows])) == pytest.approx(1, rel=0.1)
        assert mean_responses(form, STRICT) * scale * rate == pytest.approx(10, rel=0.2)
        found = [finding for finding in form.validate() if finding.severity != "info"]
        assert [finding.field for finding in found] == ["sampling rate of responses"]
        assert "averages all samples of each 33.3 ms" in found[0].what_to_do


def test_other_rates_and_profiles_pick_the_last_sample() -> None:
    fast = recording_from_arrays(spikes(60.0), 60.0)
    for profile in ("published", "experanto-main"):
        windows = Windows(fast, "train", processor=OmniMouseProcessor(profile=profile), quiet=True)
        stds = windows.processor.floored_response_stds(fast.statistics(fast.responses)[1])
        picked = fast.responses.data[windows.response_indices(3)] / stds
        np.testing.assert_allclose(windows[3]["responses"], picked, rtol=1e-6)
    for rate in (15.0, 30.0, 31.0):
        slow = recording_from_arrays(spikes(rate), rate)
        windows = Windows(slow, "train", processor=STRICT)
        rows = windows.response_indices(3)
        stds = STRICT.floored_response_stds(slow.statistics(slow.responses)[1])
        assert np.array_equal(windows[3]["responses"], (slow.responses.data[rows] / stds.astype("f4")).astype("f4"))
        assert not [finding for finding in slow.validate() if finding.severity != "info"]


def test_neurons_with_phases_of_their_own_are_averaged_each_over_its_own_samples() -> None:
    device = recording_from_arrays(spikes(200.0), 200.0).responses
    edges = np.floor(np.arange(11)[:, None] * (200 / 30) + np.array([0.0, 3.0, 5.5, 0.2, 1.1, 4.0])).astype(np.int64)
    together = pooled(device, edges)
    for neuron in range(6):
        assert np.allclose(together[:, neuron], pooled(device, edges[:, neuron])[:, neuron])


def test_bins_of_a_whole_recording_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    device = PooledDevice.of(recording_from_arrays(spikes(100.0), 100.0).responses, 30.0)
    whole = np.concatenate([block for _, block in device.chunks()])
    monkeypatch.setattr("omnimouse.recordings.pooling.CHUNK_BYTES", 4000)
    pieces = list(device.chunks())
    assert len(pieces) > 10 and np.array_equal(np.concatenate([block for _, block in pieces]), whole)
    assert whole.shape == device.shape == (1200, 6)
