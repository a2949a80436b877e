"""Checking as a whole: sound sessions, measured files, channel order, bounded reading, the description."""

from __future__ import annotations

import json

import numpy as np
import pytest

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import check_recording, describe, open_recording


def test_a_sound_session_has_only_remarks(write_session):
    findings = check_recording(write_session())
    assert {finding.severity for finding in findings} == {"info"}
    assert {finding.field for finding in findings} == {"end_time", "modality"}


@pytest.mark.parametrize("key", ["17797-4-7", "22083-2-19"])
def test_the_stored_sessions_are_sound(stored_session, key):
    assert {finding.severity for finding in check_recording(stored_session(key))} == {"info"}


@pytest.mark.parametrize(
    ("changes", "size", "texts"),
    [
        ({}, 14_000, ("expected 14400 bytes (720 x 5 float32)", "found 14000 bytes", "implies 700 rows")),
        ({}, 14_001, ("implies 700.05, not a whole number rows",)),
        ({"n_timestamps": None}, 14_400, ("n_timestamps", "no such key")),
        ({"dtype": None}, 14_400, ("dtype", "no such key")),
        ({"dtype": "float31"}, 14_400, ("'float31'",)),
        ({"dtype": "object"}, 14_400, ("'object'",)),
        ({"dtype": "float64"}, 14_400, ("expected 28800 bytes", "implies 360 rows")),
    ],
)
def test_mem_files_are_measured(write_session, edit_yaml, changes, size, texts):
    folder = write_session(mem=True)
    edit_yaml(folder / "responses/meta.yml", **changes)
    path = folder / "responses/data.mem"
    path.write_bytes(path.read_bytes()[:size])
    findings = [finding for finding in check_recording(folder) if finding.severity == "fatal"]
    assert len(findings) == 1
    assert all(text in str(findings[0]) for text in texts), findings[0]


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (1, 0, 2, 3), (0, 2, 1, 3)])
def test_another_order_of_eye_channels_is_noticed(write_session, order):
    folder = write_session()
    path = folder / "eye_tracker/data.npy"
    np.save(path, np.load(path)[:, order])
    findings = [finding for finding in check_recording(folder) if finding.field == "channel order"]
    assert [finding.severity for finding in findings] == ["warning"]
    column, of = order.index(1), order.index(0)
    assert f"column {column} follows the change of column {of}" in findings[0].found


def test_an_eye_trace_without_derivative_is_a_remark(write_session):
    folder = write_session()
    rng = np.random.default_rng(0)
    np.save(folder / "eye_tracker/data.npy", rng.standard_normal((530, 4)) * [1, 0, 0, 1])
    findings = [finding for finding in check_recording(folder) if finding.field == "channel order"]
    assert [finding.severity for finding in findings] == ["info"]


def test_nothing_raises(tmp_path, write_session, monkeypatch):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        assert [finding.severity for finding in check_recording(path)] == ["fatal"]
    folder = write_session()
    monkeypatch.setattr("omnimouse.recordings.checks.check.check_stimuli", lambda *args, **kwargs: 1 / 0)
    findings = [finding for finding in check_recording(folder) if finding.field == "check"]
    assert len(findings) == 1 and "ZeroDivisionError" in findings[0].found


def test_arrays_are_read_in_pieces(write_session, monkeypatch):
    """The result does not depend on how much is read at once, and no more than that is."""
    folder = write_session()
    responses = np.load(folder / "responses/data.npy")
    responses[700, 2] = np.nan
    np.save(folder / "responses/data.npy", responses)
    whole = check_recording(folder)
    monkeypatch.setattr("omnimouse.recordings.data.devices.CHUNK_BYTES", 1000)
    assert check_recording(folder) == whole
    sizes = [block.nbytes for _, block in open_recording(folder).responses.chunks()]
    assert max(sizes) <= 1000 and sum(sizes) == 720 * 5 * 4


def test_describe_tells_what_is_there(write_session):
    recording = open_recording(write_session())
    told = describe(recording, processor=OmniMouseProcessor("published"), stride=30)
    assert json.loads(json.dumps(told)) == told
    assert (told["session_key"], told["n_neurons"], told["profile"]) == ("7-1-2", 5, "published")
    assert told["duration_s"] == pytest.approx(recording.end_time - recording.start_time, abs=1e-3)
    assert told["tiers"]["train"]["trials"] == 3
    assert told["tiers"]["train"]["seconds"] == pytest.approx(4.0 + 0.5 + 4.0, abs=1e-3)
    assert told["tiers"]["validation"]["windows"] > 0
    assert told["modalities"] == {"blank": 4, "video": 5, "image": 1, "invalid": 1}
    assert told["devices"]["treadmill"]["sampling_rate_hz"] == 75.31
    assert told["devices"]["responses"]["dtype"] == "float32"
    assert told["devices"]["responses"]["end_overshoot_s"] == pytest.approx(0.12, abs=1e-3)
    assert told["screen"]["frame_sizes"] == [[36, 64]]
    assert told["screen"]["starts_after_responses_s"] == pytest.approx(-0.687, abs=1e-3)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_no_truncated_file_raises_or_goes_unnoticed(write_session, keep):
    folder = write_session(mem=True)
    sound = check_recording(folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.parts[-2:] == (folder.name, "config.json"):  # no reader of the format looks into it
            continue
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        findings = check_recording(folder)
        assert findings != sound, path
        assert "check" not in [finding.field for finding in findings], path
        path.write_bytes(content)
