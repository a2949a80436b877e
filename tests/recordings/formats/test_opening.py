"""Opening a session folder: metadata only, nothing written, and every fatal fault named at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Windows, mean_responses, open_recording


def test_what_a_recording_tells(stored_session):
    recording = open_recording(stored_session("17797-4-7"))
    assert (recording.session_key, recording.animal_id, recording.n_neurons) == ("17797-4-7", "17797", 37)
    assert recording.tiers == ["train", "validation", "oracle", "final_test"]
    assert recording.unit_ids.tolist() == list(range(1, 38))
    assert recording.findings == ()
    trial = recording.trials[12]
    assert (trial.index, trial.modality, trial.tier, trial.first_frame, trial.n_frames, trial.condition_hash) == (
        12,
        "video",
        "final_test",
        578,
        150,
        "c2",
    )
    assert trial.end == recording.trials[13].start
    assert recording.trials[11].modality == "invalid" and recording.trials[11].tier is None
    assert recording.trials[-1].end == float("inf")
    assert recording.start_time == recording.screen.timestamps[0]
    assert isinstance(recording.responses.data, np.memmap)


def test_reading_writes_nothing(stored_session, tree_hash, tmp_path):
    folder = tmp_path / "session"
    shutil.copytree(stored_session("22083-2-19"), folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree_hash(folder)
    recording = open_recording(folder)
    windows = Windows(recording, "train", 30)
    windows.batch(range(len(windows)))
    mean_responses(recording, OmniMouseProcessor())
    recording.validate()
    assert tree_hash(folder) == before
    for array in (recording.responses.data, windows.recording.eye_tracker.data):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_opening_reads_no_array(write_session, monkeypatch):
    folder = write_session(mem=True)
    loaded: dict[str, str | None] = {}
    real = np.load

    def spy(file, mmap_mode=None, **kwargs):
        loaded[Path(file).relative_to(folder).as_posix()] = mmap_mode
        return real(file, mmap_mode=mmap_mode, **kwargs)

    monkeypatch.setattr(np, "load", spy)
    recording = open_recording(folder)
    assert recording.n_neurons == 5 and recording.responses.shape == (720, 5)
    assert loaded["eye_tracker/data.npy"] == loaded["treadmill/data.npy"] == "r"
    assert not any(name.startswith("screen/data/") for name in loaded)
    assert all(device._data is None for device in recording.devices)


def test_a_stale_cache_is_ignored(write_session):
    folder = write_session()
    expected = open_recording(folder).trials
    stale = {f"{trial.name}": {"modality": "blank", "first_frame_idx": 0, "num_frames": 1} for trial in expected[::-1]}
    (folder / "screen/combined_meta.json").write_text(json.dumps(stale))
    recording = open_recording(folder)
    assert recording.trials == expected
    assert "cache" in [finding.field for finding in recording.validate()]


@pytest.mark.parametrize(
    ("meta", "key", "animal"),
    [
        ({"scan_key": {"animal_id": 26872, "session": 17, "scan_idx": 20}}, "26872-17-20", "26872"),
        ({"data_key": "mine", "scan_key": {"animal_id": 1, "session": 2, "scan_idx": 3}}, "mine", "1"),
        ({"data_key": "mine"}, "mine", "99"),
        ({"scan_key": {"animal_id": 5}}, "dynamic99-1-2-Video-x_30hz", "5"),
        (None, "dynamic99-1-2-Video-x_30hz", "99"),
    ],
)
def test_session_key_and_animal(write_session, meta, key, animal):
    folder = write_session("dynamic99-1-2-Video-x_30hz")
    (folder / "meta.json").unlink() if meta is None else (folder / "meta.json").write_text(json.dumps(meta))
    recording = open_recording(folder)
    assert (recording.session_key, recording.animal_id) == (key, animal)
    assert bool(recording.findings) == (key == folder.name)


def test_all_fatal_faults_are_listed_at_once(write_session, edit_yaml):
    folder = write_session()
    (folder / "treadmill/data.npy").unlink()
    edit_yaml(folder / "eye_tracker/meta.yml", sampling_rate="20", start_time=None)
    (folder / "screen/meta/00003.yml").write_text("modality: [blank")
    with pytest.raises(ValueError) as error:
        open_recording(folder)
    message = str(error.value)
    for part in (
        "treadmill: data: expected data.npy or data.mem, found neither",
        "eye_tracker/meta.yml: sampling_rate: expected a finite number, found '20' (str)",
        "eye_tracker/meta.yml: start_time: expected a finite number, found no such key",
        "00003.yml: file: expected valid yml",
    ):
        assert part in message


def test_folders_that_are_no_session(write_session, tmp_path):
    write_session()
    archive = tmp_path / "session.tar"
    archive.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path, "1 session folder one level deeper"),
        (tmp_path / "nowhere", "found nothing"),
        (archive, "Unpack the archive"),
        (tmp_path / "empty", "found an empty folder"),
    ):
        with pytest.raises(ValueError, match=message):
            open_recording(path)


def test_files_of_arrays_are_answered_with_the_function_that_takes_arrays(tmp_path):
    np.save(tmp_path / "spks.npy", np.ones((10, 2)))
    for path in (tmp_path, tmp_path / "spks.npy"):
        with pytest.raises(ValueError, match=r"with recording_from_arrays, .* in a folder, and pass that"):
            open_recording(path)


def test_a_renamed_response_folder_is_found(write_session):
    folder = write_session()
    (folder / "responses").rename(folder / "responses_deconvolved")
    recording = open_recording(folder)
    assert recording.n_neurons == 5
    assert [finding.severity for finding in recording.findings] == ["info"]


def test_paths_in_metadata_do_not_leave_the_folder(write_session, edit_yaml, tmp_path):
    folder = write_session()
    np.save(tmp_path / "ids.npy", np.arange(5))
    edit_yaml(folder / "responses/meta.yml", neuron_properties={"unit_ids": "../../ids.npy"})
    recording = open_recording(folder)
    assert recording.unit_ids is None
    assert recording.findings[0].field == "neuron_properties.unit_ids"


def test_pickled_objects_are_not_loaded(write_session, tmp_path):
    folder = write_session()

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.save(folder / "responses/meta/means.npy", np.array([Trap()] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"means\.npy: file: expected a complete \.npy array without Python objects"):
        open_recording(folder)
    assert not (tmp_path / "executed").exists()


def test_files_that_are_links_are_read_as_in_repositories_of_git_annex(write_session, tmp_path):
    folder = write_session()
    expected = open_recording(folder).unit_ids
    for name in ("responses/meta/unit_ids.npy", "responses/data.npy", "screen/timestamps.npy"):
        (folder / name).rename(tmp_path / name.replace("/", "-"))
        (folder / name).symlink_to(tmp_path / name.replace("/", "-"))
    recording = open_recording(folder)
    assert np.array_equal(recording.unit_ids, expected) and np.isfinite(recording.responses.read(np.arange(3))).all()
