"""The picture of a recording: its numbers against slow ones, sound and broken recordings, bounded reading."""

from __future__ import annotations

import numpy as np
import pytest
from fuzzing.sessions import HEIGHT, SENSORIUM_NAME, WIDTH, sensorium_2023, write_tree

from omnimouse import OmniMouseProcessor
from omnimouse.recordings import Windows, open_recording, plot_recording
from omnimouse.recordings.views import overview


def test_bins_are_averages_of_their_samples(write_session):
    recording = open_recording(write_session())
    device = recording.responses
    edges = overview.bin_edges(device.start_time, device.start_time + 24, 12)
    means, longest = overview.binned_responses(device, edges)
    np.testing.assert_allclose(means, np.asarray(device.data).reshape(12, 60, 5).mean(axis=1), rtol=1e-5)
    assert longest == 60


def test_no_more_is_read_than_allowed(write_session, monkeypatch):
    recording = open_recording(write_session())
    edges = overview.bin_edges(recording.responses.start_time, recording.responses.start_time + 24, 12)
    monkeypatch.setattr(overview, "READ_BYTES", 12 * 7 * 5 * 4)
    read = []
    monkeypatch.setattr(
        "omnimouse.recordings.data.devices.SequenceDevice._block",
        lambda self, low, high: read.append((high - low) * 20) or self.data[low:high],
    )
    means, longest = overview.binned_responses(recording.responses, edges)
    assert (longest, sum(read)) == (7, 12 * 7 * 20)
    whole = np.asarray(recording.responses.data).reshape(12, 60, 5)
    np.testing.assert_allclose(means, whole[:, :7].mean(axis=1), rtol=1e-5)


def test_alike_neurons_lie_side_by_side():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal(200)
    sign = np.array([1, -1, 1, -1, 1, 1])
    means = (signal[:, None] * sign + 0.1 * rng.standard_normal((200, 6))).astype(np.float32)
    rows = overview.sorted_neurons(means, 400)
    assert np.sign(np.corrcoef(rows)[0]).tolist() == [1, 1, -1, -1, -1, -1]
    grouped = overview.sorted_neurons(means, 3)
    np.testing.assert_allclose(grouped, rows.reshape(3, 2, 200).mean(axis=1), rtol=1e-5)
    means[50] = np.nan
    assert np.isnan(overview.sorted_neurons(means, 3)[:, 50]).all()


def test_channels_windows_trials_and_frames_add_up(write_session):
    folder = write_session()
    eye = np.load(folder / "eye_tracker/data.npy")
    eye[100:150, 2] = np.nan
    np.save(folder / "eye_tracker/data.npy", eye)
    recording = open_recording(folder)
    device, screen = recording.eye_tracker, recording.screen
    edges = overview.bin_edges(device.start_time, device.start_time + device.shape[0] / device.sampling_rate, 40)
    channels = overview.binned_channels(device, edges, screen)
    times = device.start_time + np.arange(530) / device.sampling_rate
    which = np.array([max(k for k in range(40) if edges[k] <= time) for time in times])
    for column, channel in enumerate(channels):
        for index in (0, 8, 20):
            values = eye[which == index, column]
            if np.isfinite(values).any():
                assert channel.low[index] == np.nanmin(values) and channel.high[index] == np.nanmax(values)
                assert channel.mean[index] == pytest.approx(np.nanmean(values))
    assert channels[0].share_lost == 0
    assert channels[2].share_lost == pytest.approx(50 / np.count_nonzero(times >= screen.timestamps[0]))
    edges = overview.bin_edges(recording.start_time - 5, recording.end_time + 5, 200)
    width = edges[1] - edges[0]
    shares = overview.binned_trials(screen, edges)
    assert shares["train"]["video"].sum() * width == pytest.approx(8.0, abs=1e-3)
    assert shares["no tier"]["invalid"].sum() * width == pytest.approx(1.0, abs=1e-3)
    processor = OmniMouseProcessor()
    found = overview.binned_windows(recording, edges, processor)
    starts = Windows(recording, "oracle", processor=processor).starts
    covered, n = found["oracle"]
    assert n == len(starts)
    assert covered.sum() * width == pytest.approx(starts[-1] - starts[0] + 2, abs=0.05)
    median, longest, late = overview.frame_intervals(screen, edges)
    assert late == 0 and np.nanmin(median) == pytest.approx(1 / 60, rel=1e-3)
    assert np.nanmax(longest) == pytest.approx(1 / 30, rel=1e-3)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_a_picture_is_written_whole_and_nothing_into_the_recording(write_session, tmp_path, tree_hash, suffix):
    folder = write_session()
    before = tree_hash(folder)
    file = plot_recording(open_recording(folder), tmp_path / f"out{suffix}", findings=open_recording(folder).findings)
    content = file.read_bytes()
    assert len(content) > 20_000 and [path.name for path in tmp_path.glob("out*")] == [file.name]
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!DOCTYPE html>"}[suffix])
    assert tree_hash(folder) == before
    with pytest.raises(ValueError, match="lies in the recording"):
        plot_recording(folder, folder / f"out{suffix}")


def test_other_files_and_nothing_are_refused(write_session, tmp_path):
    with pytest.raises(ValueError, match=r"written as one of \.png, \.svg, \.html"):
        plot_recording(write_session(), tmp_path / "out.gif")
    with pytest.raises(ValueError, match="cannot be drawn"):
        plot_recording(tmp_path / "nowhere", tmp_path / "out.png")
    (tmp_path / "empty/responses").mkdir(parents=True)
    with pytest.raises(ValueError, match="nothing of it can be read"):
        plot_recording(tmp_path / "empty", tmp_path / "out.png")


def texts_of(monkeypatch):
    """Everything that is written into the figures drawn from now on."""
    written: list[str] = []
    from matplotlib.text import Text

    real = Text.set_text
    monkeypatch.setattr(Text, "set_text", lambda self, text: (written.append(str(text)), real(self, text))[1])
    return written


def test_broken_recordings_are_drawn_as_far_as_they_can_be_read(write_session, edit_yaml, tmp_path, monkeypatch):
    folder = write_session()
    edit_yaml(folder / "responses/meta.yml", n_signals=6)
    edit_yaml(folder / "treadmill/meta.yml", start_time=0.0, end_time=26.1)
    (folder / "screen/timestamps.npy").unlink()
    written = texts_of(monkeypatch)
    plot_recording(folder, tmp_path / "out.png")
    everything = "\n".join(written)
    assert "responses cannot be read: n_signals: expected 5, the columns of data.npy, found 6" in everything
    assert "the screen cannot be read: file: expected a .npy array, found no such file" in everything
    assert "treadmill lies elsewhere in time" in everything and "it cannot be opened" in everything
    assert "Pupil size (stored units)" in everything


def test_sensorium_folders_are_drawn(tmp_path, monkeypatch):
    folder = write_tree(sensorium_2023(), tmp_path / SENSORIUM_NAME)
    written = texts_of(monkeypatch)
    processor = OmniMouseProcessor(frame_height=HEIGHT, frame_width=WIDTH)
    plot_recording(folder, tmp_path / "out.svg", processor=processor)
    everything = "\n".join(written)
    assert "final_test_main: withheld" in everything and "oracle: 7 starts" in everything
    assert "missing" not in everything.replace("missing values in orange", "")
