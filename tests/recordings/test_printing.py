"""What prints of a recording and its parts: a few lines, however much was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse.recordings import Recording, Windows, open_recording, recording_from_arrays


@pytest.fixture
def long_recording():
    """500 neurons with unit ids, 200 trials, a video."""
    rows = np.random.default_rng(0).gamma(1.0, size=(6000, 500))
    trials = [(float(start), start + 1.0, ("train", "validation")[start % 2], f"clip{start}") for start in range(200)]
    frames = np.zeros((200, 36, 64), np.uint8)
    frames[::2] = 200
    behavior = {"running_speed": np.sin(np.arange(6000) / 50)}
    return recording_from_arrays(
        rows, {"responses": 30.0, "video": 1.0}, video=frames, behavior=behavior, trials=trials,
        unit_ids=np.arange(500), session_key="m<1>-1-1",
    )  # fmt: skip


def test_everything_prints_in_a_few_lines(long_recording):
    windows = Windows(long_recording, "train")
    parts = (*long_recording.devices, long_recording.screen, long_recording.trials, long_recording.trials[0], windows)
    for part in (long_recording, *parts, {"screen": long_recording.screen}):
        assert 10 < len(repr(part)) < 600 and repr(part).count("\n") < 6, repr(part)[:600]
    assert repr(long_recording.trials).endswith("and 196 more]") and "tier train, 0 to 1 s" in repr(
        long_recording.trials
    )
    assert "6000 samples of 500 signals at 30 Hz" in repr(long_recording.responses)
    assert "(running_speed)" in repr(long_recording.treadmill) and "200 video" in repr(long_recording.screen)


def test_notebooks_show_small_tables_of_escaped_cells(long_recording):
    table = long_recording._repr_html_()
    assert table.startswith("<table>") and table.endswith("</table>") and len(table) < 1000
    for fact in (
        "m&lt;1&gt;-1-1",
        "500 at 30 Hz",
        "train (100 trials), validation (100 trials)",
        "running_speed",
        "yes",
    ):
        assert fact in table
    assert "not recorded" in recording_from_arrays(np.ones((900, 3)), 30.0)._repr_html_()
    windows = Windows(long_recording, "train")
    assert f"{len(windows)} of 2 s, stride 1" in windows._repr_html_() and "published" in windows._repr_html_()


def test_a_list_of_trials_is_a_list_of_trials(write_session):
    recording = open_recording(write_session())
    assert type(recording) is Recording
    assert recording.trials == list(recording.trials) and type(recording.trials[1:]) is list
    assert repr(recording.trials[:0] + recording.trials).startswith("[<Trial 0: ")
