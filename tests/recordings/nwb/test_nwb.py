"""NWB files as pynwb writes them, imported: windows equal to their source's, other names, what is refused and how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from nwb_files import RNG, SECONDS, add_responses, add_template, empty_file, small_file, written
from pynwb import H5DataIO, TimeSeries
from pynwb.behavior import EyeTracking, PupilTracking, SpatialSeries
from pynwb.image import ImageSeries

from omnimouse import (
    OmniMouseModel,
    OmniMouseProcessor,
    Windows,
    evaluate,
    finetune,
    import_nwb,
    open_recording,
    simulate_recording,
)
from omnimouse.cli.main import main
from omnimouse.recordings.nwb.importing import nwb_entries
from omnimouse.recordings.nwb_mapping import NwbMapping, as_mapping


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A simulated recording without stored statistics, so that those of the train tier are used everywhere."""
    recording = simulate_recording(tmp_path_factory.mktemp("simulated") / "session", 3, n_neurons=6, minutes=1.0)
    for device in recording.devices:
        device.means = device.stds = None
    return recording


def as_nwb(source, path: Path, form: str = "template", leave_out: tuple[str, ...] = ()) -> Path:
    nwb = empty_file()
    zero = source.responses.start_time
    add_responses(nwb, np.asarray(source.responses.data), rate=source.responses.sampling_rate, starting_time=0.0)
    clocks = {d.name: d.start_time - zero + np.arange(d.shape[0]) / d.sampling_rate for d in source.devices}
    eye = np.asarray(source.eye_tracker.data)
    if "pupil" not in leave_out:
        size = TimeSeries(name="pupil_area", data=eye[:, 0], unit="px", timestamps=clocks["eye_tracker"])
        change = TimeSeries(name="pupil_area_derivative", data=eye[:, 1], unit="px/s", timestamps=size)
        nwb.processing["behavior"].add(PupilTracking(time_series=[size, change]))
        gaze = SpatialSeries(
            name="right", data=eye[:, 2:], timestamps=clocks["eye_tracker"], reference_frame="", unit="px"
        )
        nwb.processing["behavior"].add(EyeTracking(spatial_series=gaze))
    start, rate = clocks["treadmill"][0], source.treadmill.sampling_rate
    speed = np.asarray(source.treadmill.data)[:, 0]
    nwb.processing["behavior"].add(
        TimeSeries(name="running_speed", data=speed, unit="cm/s", rate=rate, starting_time=start)
    )
    displayed = source.screen.timestamps
    if "video" not in leave_out:
        frames = source.screen.frames_at(displayed, height=36, width=64).astype(np.uint8)
        frames, index = np.unique(frames, axis=0, return_inverse=True)
        add_template(nwb, frames, index.reshape(-1), displayed - zero, form)
    nwb.add_trial_column("tier", "split")
    nwb.add_trial_column("condition", "clip")
    for trial in source.trials:
        if trial.tier is not None:
            nwb.add_trial(trial.start - zero, trial.end - zero, tier=trial.tier, condition=trial.condition_hash)
    return written(nwb, path)


def pairs_of_windows(ours, theirs, tier: str, shift: float):
    """Windows of both recordings that begin at the same time."""
    one, other = (
        Windows(each, tier, include_blanks=False, processor=OmniMouseProcessor(), quiet=True) for each in (ours, theirs)
    )
    nearest = {round((start - shift) * 1000): index for index, start in enumerate(other.starts)}
    pairs = [(i, nearest.get(round(start * 1000))) for i, start in enumerate(one.starts)]
    assert len(one) > 50 and abs(len(one) - len(other)) <= 5 and not [i for i, j in pairs if j is None]
    for i, j in pairs[:: max(1, len(pairs) // 10)]:
        yield one[i], other[j]


@pytest.mark.parametrize("form", ["template", "images", "plain"])
def test_windows_of_an_imported_session_equal_those_of_its_source(simulated, tmp_path, form):
    file = as_nwb(simulated, tmp_path / "session.nwb", form)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    imported = import_nwb(file, tmp_path / "imported")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert (imported.session_key, imported.animal_id) == ("m7-1-2", "m7")
    assert list(imported.unit_ids) == [100, 103, 106, 109, 112, 115]
    assert set(imported.tiers) == set(simulated.tiers)
    for tier in imported.tiers:
        for ours, theirs in pairs_of_windows(imported, simulated, tier, simulated.responses.start_time):
            for name in ("responses", "video", "behavior"):
                assert torch.equal(ours[name], theirs[name]), (tier, name)
    # Ten seconds of running, all that the train tier has, are unlike the whole minute.
    wrong = [finding for finding in imported.validate() if finding.severity != "info"]
    assert all(finding.path.endswith("treadmill/meta/stds.npy") for finding in wrong), wrong
    conditions = [trial.condition_hash for trial in imported.trials if trial.tier not in (None, "unused")]
    assert conditions == [trial.condition_hash for trial in simulated.trials if trial.tier is not None]


def test_what_a_file_lacks_stays_missing(simulated, tmp_path):
    file = as_nwb(simulated, tmp_path / "session.nwb", leave_out=("pupil", "video"))
    imported = import_nwb(file, tmp_path / "imported")
    windows = Windows(imported, "train", processor=OmniMouseProcessor(), quiet=True)
    assert windows.missing == ("video",) and windows.missing_channels == (0, 1, 2, 3)
    for ours, theirs in pairs_of_windows(imported, simulated, "train", simulated.responses.start_time):
        assert torch.equal(ours["responses"], theirs["responses"])
        assert torch.equal(ours["behavior"][4], theirs["behavior"][4])


def test_an_imported_session_is_trained_and_scored_on(simulated, tmp_path, capsys):
    """As a user does it in the shell; the models are those of every other recording."""
    file = as_nwb(simulated, tmp_path / "session.nwb")
    assert main(["import", str(file), "--list"]) == 0
    listed = capsys.readouterr().out
    assert "responses  processing/ophys/Deconvolved/Deconvolved  (RoiResponseSeries: 1800 x 6, 30 Hz, a.u.)" in listed
    assert "stimulus/presentation/movie  (IndexSeries: 1503" in listed and "trials     intervals/trials" in listed
    assert main(["import", str(file), str(tmp_path / "imported"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["n_neurons"] == 6 and "gaze_y" in captured.err and "none" not in captured.err
    recording = open_recording(tmp_path / "imported")
    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    finetune(model, recording, steps=2, batch_size=2, max_validation_windows=1, progress=False)
    scores = evaluate(model, recording, tasks=["stimulus+behavior"], progress=False, max_windows=2)
    assert np.isfinite(scores.tasks["stimulus+behavior"].response_loss)


@pytest.fixture
def odd_names(tmp_path):
    """A file in which nothing goes by its usual name, stored as integers with factors."""
    nwb = empty_file(session_id="day 3/b")
    data = RNG.integers(0, 900, (SECONDS * 15, 4)).astype(np.int16)
    data[7, 2] = 0
    add_responses(nwb, data, "activity", "ROIs", rate=15.0, starting_time=100.0, conversion=0.01, offset=0.5)
    wheel = RNG.integers(0, 100, (SECONDS * 50, 3)).astype(np.int16)
    nwb.processing["behavior"].add(
        TimeSeries(name="encoder", data=wheel, unit="m/s", conversion=0.25, rate=50.0, starting_time=100.0)
    )
    camera = TimeSeries(name="diam", data=RNG.normal(size=SECONDS * 15), unit="mm", rate=15.0, starting_time=100.0)
    camera.data[3] = np.nan
    nwb.add_acquisition(camera)
    frames = RNG.random((40, 96, 54)).astype(np.float32)
    times = 100.0 + np.arange(SECONDS * 20) / 20
    add_template(nwb, frames, np.arange(SECONDS * 20) % 40, times, name="natural")
    add_template(nwb, frames, np.arange(10), times[:10] + 900, name="grating")
    nwb.add_trial_column("movie_set", "which")
    for number in range(4):
        nwb.add_trial(100.0 + 5 * number, 105.0 + 5 * number, movie_set=number)
    return written(nwb, tmp_path / "odd.nwb"), data, wheel, np.asarray(camera.data), frames


MAPPING = """\
responses: processing/ophys/ROIs/activity
behavior:
  running_speed: processing/behavior/encoder[1]
  pupil_size: acquisition/diam
  lick: processing/behavior/encoder[2]
video: stimulus/presentation/natural
video_range: [0, 1]
video_transposed: true
tiers: {column: movie_set, values: {train: [0, 2], final_test: [3]}}
session_key: lab7-3-1
"""


def test_a_lab_with_names_of_its_own_writes_a_mapping(odd_names, tmp_path):
    file, data, wheel, diameter, frames = odd_names
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    imported = import_nwb(file, tmp_path / "imported", mapping=tmp_path / "mapping.yaml")
    assert (imported.session_key, imported.animal_id, imported.responses.dtype) == ("lab7-3-1", "m7", "float32")
    assert np.allclose(imported.responses.data, data * 0.01 + 0.5)
    assert imported.responses.start_time == 100.0
    assert imported.eye_tracker.channels == ("pupil_size", "pupil_size_derivative", "lick")
    row = imported.treadmill.channels.index("running_speed")
    assert np.allclose(imported.treadmill.data[: len(wheel) - 2, row], wheel[: len(wheel) - 2, 1] * 0.25)
    size = np.asarray(imported.eye_tracker.data)[:, 0]
    assert np.isnan(size).sum() > 0 and set(size[np.isfinite(size)]) <= set(diameter.tolist())
    assert [(t.start, t.tier) for t in imported.trials] == [
        (100.0, "train"), (105.0, "unused"), (110.0, "train"), (115.0, "final_test")
    ]  # fmt: skip
    window = Windows(imported, "train", processor=OmniMouseProcessor(), quiet=True)[0]
    assert window["video"].shape == (1, 60, 36, 64) and np.allclose(window["video"].max() * 59 + 113, 255, atol=40)
    shown = imported.screen.frames_at(np.array([101.01]), height=36, width=64)[0]
    assert np.isclose(shown.mean(), frames[20].mean() * 255, rtol=1e-4)


def test_names_that_say_nothing_are_asked_for(odd_names, tmp_path):
    file, *_ = odd_names
    content = yaml.safe_load(MAPPING)
    cases = {
        "responses": "no responses that are named as deconvolved, but: processing/ophys/ROIs/activity, 300 x 4, 15 Hz",
        "video": r"2 stimuli were presented: .*grating.*; .*natural.*`video: stimulus/presentation/grating`",
        "video_transposed": "96 rows and 54 columns, taller than wide",
        "video_range": r"between 0 and 1, .* video_range",
    }
    for left_out, message in cases.items():
        mapping = {name: value for name, value in content.items() if name != left_out}
        with pytest.raises(ValueError, match=message):
            import_nwb(file, tmp_path / "imported", mapping=mapping)
    wrong = {
        "responses": ("processing/ophys/dff", "no time series at .*the file has: .*processing/ophys/ROIs/activity"),
        "behavior": ({"running_speed": "processing/behavior/encoder"}, r"one of its 3 columns as .*encoder\[0\]"),
        "tiers": ({"column": "set"}, "no column 'set'; it has .*movie_set"),
        "trials": ("intervals/epochs", "the file has: intervals/trials"),
        "vidio": ("x", "no field vidio"),
        "split": ([1], "expected a mapping"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            import_nwb(file, tmp_path / "imported", mapping={**content, name: value})
    with pytest.raises(ValueError, match=r"no trial has one of the tiers' values; .*has 0, 1, 2, 3"):
        tiers = {"column": "movie_set", "values": {"train": ["a"]}}
        import_nwb(file, tmp_path / "imported", mapping={**content, "tiers": tiers})
    assert not (tmp_path / "imported").exists()


def test_several_candidates_are_listed(tmp_path):
    nwb = small_file()
    add_responses(nwb, RNG.gamma(2, 2, (SECONDS * 30, 3)), "Deconvolved 2", rate=30.0)
    for name in ("running speed", "running_speed"):
        nwb.processing["behavior"].add(TimeSeries(name=name, data=np.ones(SECONDS * 30), unit="cm/s", rate=30.0))
    file = written(nwb, tmp_path / "two.nwb")
    first = "processing/ophys/Deconvolved/Deconvolved"
    with pytest.raises(ValueError, match=f"2 series of deconvolved responses: {first}, 600 x 4.*`responses: {first}`"):
        import_nwb(file, tmp_path / "imported")
    with pytest.raises(ValueError, match=r"2 series that may be running_speed: .*`running_speed: none`"):
        import_nwb(file, tmp_path / "imported", mapping={"responses": first})
    mapping = {"responses": f"{first} 2", "behavior": {"running_speed": "none"}}
    imported = import_nwb(file, tmp_path / "imported", mapping=mapping)
    assert imported.n_neurons == 3 and imported.behavior_channels == ()
    assert set(imported.tiers) == {"train", "validation", "final_test"}
    paths = [entry.path for entry in nwb_entries(file) if entry.role == "responses"]
    assert paths == [first, f"{first} 2"]


def test_fluorescence_is_taken_when_it_is_named(tmp_path):
    nwb = small_file(responses=False)
    data = RNG.gamma(2, 2, (SECONDS * 30, 4))
    data[50, 2] = np.nan
    add_responses(nwb, data, "raw", "Fluorescence", rate=30.0)
    file = written(nwb, tmp_path / "raw.nwb")
    with pytest.raises(ValueError, match="trained on deconvolved activity"):
        import_nwb(file, tmp_path / "imported")
    imported = import_nwb(file, tmp_path / "imported", mapping={"responses": "processing/ophys/Fluorescence"})
    assert np.array_equal(imported.responses.data, data, equal_nan=True) and not imported.has_video


def test_a_data_set_of_a_series_has_its_clock(tmp_path):
    """As fits of ellipses to the pupil are stored: position as data, and area, width and height beside it."""
    nwb = small_file()
    nwb.add_acquisition(TimeSeries(name="ellipse", data=np.zeros((300, 2)), unit="px", rate=15.0, starting_time=0.5))
    file = written(nwb, tmp_path / "ellipse.nwb")
    area = RNG.normal(9, 1, 300)
    with h5py.File(file, "r+") as h5:
        h5["acquisition/ellipse/area"] = area
    imported = import_nwb(file, tmp_path / "imported", mapping={"behavior": {"pupil_size": "acquisition/ellipse/area"}})
    assert (imported.eye_tracker.start_time, imported.eye_tracker.channels[0]) == (0.5, "pupil_size")
    assert np.array_equal(imported.eye_tracker.data[:, 0], area)


def test_the_mapping_of_the_documentation_has_every_field():
    text = (Path(__file__).parents[3] / "docs/recordings.md").read_text(encoding="utf-8")
    (content,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    mapping = as_mapping(yaml.safe_load(content))
    assert yaml.safe_load(content).keys() == {field.name for field in dataclasses.fields(mapping)}
    assert mapping.tiers.values == {"train": (1, 2), "final_test": (3,)} and as_mapping(None) == NwbMapping()


def test_movies_outside_the_file_are_refused_with_advice(tmp_path):
    nwb = small_file()
    nwb.add_stimulus(
        ImageSeries(
            name="movie",
            external_file=["movie.avi"],
            format="external",
            timestamps=[0.0],
            unit="n.a.",
            starting_frame=[0],
        )
    )
    file = written(nwb, tmp_path / "outside.nwb")
    with pytest.raises(ValueError, match=r"lie in other files \(movie.avi\).*`video: none`"):
        import_nwb(file, tmp_path / "imported")
    assert not import_nwb(file, tmp_path / "imported", mapping={"video": "none"}).has_video


def test_swapped_axes_and_missing_clocks_are_named(tmp_path):
    file = written(small_file(), tmp_path / "small.nwb")
    path = "processing/ophys/Deconvolved/Deconvolved"
    with h5py.File(file, "r+") as h5:
        h5[path]["timestamps"] = np.arange(4) / 30
    with pytest.raises(ValueError, match=r"4 timestamps for data of shape \(600, 4\); its axes look swapped"):
        import_nwb(file, tmp_path / "imported")
    with h5py.File(file, "r+") as h5:
        del h5[path]["timestamps"], h5[path]["starting_time"]
    with pytest.raises(ValueError, match="neither timestamps nor a rate"):
        import_nwb(file, tmp_path / "imported")


def test_files_of_other_kinds_and_damaged_ones(tmp_path):
    good = written(small_file(), tmp_path / "good.nwb")
    with pytest.raises(ValueError, match=r"omnimouse import good.nwb FOLDER"):
        open_recording(good)
    text, part, other, old, folder = (tmp_path / f"{name}.nwb" for name in ("text", "part", "other", "old", "folder"))
    text.write_text("not HDF5")
    part.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    folder.mkdir()
    for path, attributes in ((other, {}), (old, {"nwb_version": "1.0.6"})):
        with h5py.File(path, "w") as h5:
            h5["data"] = np.zeros(3)
            h5.attrs.update(attributes)
    cases = {
        tmp_path / "nothing.nwb": "no such file", text: "no HDF5 file", part: "cannot be read whole",
        folder: "a folder", other: "HDF5 without nwb_version.*recording_from_arrays", old: "NWB 1.0.6, expected NWB 2",
    }  # fmt: skip
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message):
            import_nwb(path, tmp_path / "imported")
        with pytest.raises(ValueError, match=message):
            nwb_entries(path)
    assert not (tmp_path / "imported").exists()


def test_a_chunk_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    nwb = small_file(responses=False)
    noise = RNG.normal(size=(SECONDS * 30, 4))
    add_responses(nwb, H5DataIO(noise, chunks=(100, 4), compression="gzip"), rate=30.0)
    file = written(nwb, tmp_path / "damaged.nwb")
    with h5py.File(file, "r") as h5:
        chunk = h5["processing/ophys/Deconvolved/Deconvolved/data"].id.get_chunk_info(3)
    content = bytearray(file.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read whole"):
        import_nwb(file, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.nwb"]


def test_without_h5py_the_command_to_install_it_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.nwb").write_bytes(b"")
    assert main(["import", str(tmp_path / "a.nwb"), "--list"]) == 2
    assert 'pip install "omnimouse[nwb]"' in capsys.readouterr().err


def test_the_command_asks_for_a_folder(tmp_path, capsys):
    assert main(["import", str(tmp_path / "a.nwb")]) == 2
    assert "use --list to see what the file has" in capsys.readouterr().err
