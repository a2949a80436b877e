"""Recordings as tables of `datasets`: the same windows bit for bit, rows that explain themselves, named faults."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import pickle
import shutil
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from small_models import SMALLEST

from omnimouse import OmniMouseConfig, OmniMouseModel, OmniMouseProcessor, evaluate, finetune
from omnimouse.cli.describe import describe_path
from omnimouse.cli.main import main
from omnimouse.recordings import (
    Recording,
    Windows,
    check_recording,
    describe,
    mean_responses,
    open_recording,
    recording_from_arrays,
)
from omnimouse.recordings.data import devices
from omnimouse.recordings.formats.dataset_form import arrow_tables, dataset_writer
from omnimouse.recordings.simulation.simulated import simulate_recording
from omnimouse.training.pretraining.corpus_recordings import find_sessions
from omnimouse.training.pretraining.pretraining_recipe import RecordingsRecipe

PROFILES = ("published", "experanto-main", "strict")
KEY = "7-1-2"


def assert_same_windows(found: Recording, expected: Recording, stride: int = 5) -> int:
    """Starts and windows are equal bit for bit, for every profile, tier and both rules for blanks; how many windows."""
    tiers = [tier for tier in expected.tiers if tier not in expected.withheld_tiers]
    n_windows = 0
    for profile, chosen, blanks in itertools.product(PROFILES, [*([t] for t in tiers), tiers], (True, False)):
        processor = OmniMouseProcessor(profile)
        ours, theirs = (
            Windows(recording, chosen, stride, blanks, processor, quiet=True) for recording in (found, expected)
        )
        assert ours.starts.tobytes() == theirs.starts.tobytes()
        assert ours.explain() == theirs.explain()
        for one, other in zip(ours, theirs, strict=True):
            for name in other:
                assert one[name].numpy().tobytes() == other[name].numpy().tobytes(), (profile, chosen, name)
            n_windows += 1
    return n_windows


def write_clips(root: Path) -> Path:
    """A SENSORIUM 2023 folder of five clips of unequal lengths, the eye lost in one, responses of one withheld."""
    rng = np.random.default_rng(8)
    tiers = np.array(["train", "oracle", "train", "live_test_main", "train"])
    for part in ("videos", "responses", "behavior", "pupil_center"):
        (root / "data" / part).mkdir(parents=True)
    (root / "meta/trials").mkdir(parents=True)
    (root / "meta/neurons").mkdir()
    for trial, tier in enumerate(tiers):
        arrays = {
            "videos": rng.uniform(0, 255, (36, 64, 110)),
            "responses": rng.gamma(2.0, 2.0, (4, 110)) * (tier != "live_test_main"),
            "behavior": rng.gamma(2.0, 2.0, (2, 110)),
            "pupil_center": rng.normal(100.0, 3.0, (2, 110)),
        }
        for kind, array in arrays.items():
            array[..., 100 - trial :] = np.nan
            if kind == "pupil_center" and trial == 2:
                array[0, 4:6] = np.nan
            np.save(root / f"data/{kind}/{trial}.npy", array.astype(np.float32 if kind == "videos" else np.float64))
    np.save(root / "meta/neurons/unit_ids.npy", np.array([5, 3, 9, 1], dtype=np.uint16))
    np.save(root / "meta/trials/tiers.npy", tiers)
    np.save(root / "meta/trials/trial_idx.npy", np.array([f"{trial:08x}" for trial in range(len(tiers))]))
    return root


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "mouse"
    simulate_recording(folder, 5, n_neurons=9, minutes=2.5, animal="sim")
    return folder


@pytest.fixture
def written(write_session, tmp_path) -> Path:
    """The folder of one recording in the form, for a test to damage."""
    open_recording(write_session()).to_dataset(tmp_path / "out")
    return tmp_path / "out" / KEY


# The round trip.


@pytest.mark.parametrize("key", ["17797-4-7", "22083-2-19"])
def test_reference_sessions_come_back_bit_for_bit(stored_session, tmp_path, key, tree_hash):
    source = open_recording(stored_session(key))
    before = tree_hash(source.path)
    source.to_dataset(tmp_path / "out")
    found = open_recording(tmp_path / "out")
    assert_same_windows(found, source, stride=9)
    assert found.trials == source.trials
    assert (found.session_key, found.animal_id, found.tiers) == (source.session_key, source.animal_id, source.tiers)
    assert np.array_equal(found.unit_ids, source.unit_ids) and found.unit_ids.dtype == source.unit_ids.dtype
    for ours, theirs in zip(found.devices, source.devices, strict=True):
        assert ours.valid_range == theirs.valid_range and ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert tree_hash(source.path) == before


def test_a_simulated_session_comes_back_bit_for_bit(simulated, tmp_path):
    source = open_recording(simulated)
    source.to_dataset(tmp_path)
    assert assert_same_windows(open_recording(tmp_path), source, stride=60)


def test_clips_come_back_with_their_gaps_and_withheld_tiers(tmp_path):
    source = open_recording(write_clips(tmp_path / "dynamic7-1-2-Video-abc"))
    source.to_dataset(tmp_path / "out")
    found = open_recording(tmp_path / "out")
    # Nothing is stored for the statistics, so both compute them, which needs the same stretches of samples.
    assert found.responses.means is None and found.withheld_tiers == ("live_test_main",)
    assert assert_same_windows(found, source, stride=3)
    assert [trial.trial_id for trial in found.trials] == [f"{trial:08x}" for trial in range(5)]
    for ours, theirs in zip(found.devices, source.devices, strict=True):
        assert ours.nan_rows().tolist() == theirs.nan_rows().tolist()
        assert [low for low, _ in ours.chunks(slice(50, 400))] == [low for low, _ in theirs.chunks(slice(50, 400))]
    with pytest.raises(ValueError, match="withheld"):
        Windows(found, "live_test_main")
    assert not [finding for finding in check_recording(tmp_path / "out") if finding.severity == "fatal"]


def odd_session(folder: Path, edit_yaml, *, dtype: str, shifts: bool, statistics: bool) -> Path:
    """Changes a written session: types, lost eyes, phase shifts, stimuli of several types, a grey of 127.3."""
    rng = np.random.default_rng(2)
    responses = np.load(folder / "responses/data.npy")
    np.save(
        folder / "responses/data.npy", (10 * responses if np.dtype(dtype).kind != "b" else responses > 3).astype(dtype)
    )
    eye = np.load(folder / "eye_tracker/data.npy")
    eye[[40, 41, 300], [0, 2, 3]] = np.nan
    np.save(folder / "eye_tracker/data.npy", eye)
    np.save(folder / "treadmill/data.npy", rng.integers(-9, 9, (1960, 1)).astype(np.int16))
    np.save(folder / "screen/data/00001.npy", rng.uniform(0, 255, (120, 36, 64)).astype(np.float32))
    np.save(folder / "screen/data/00007.npy", rng.integers(0, 255, (130, 36, 64)).astype(np.int32))
    edit_yaml(folder / "screen/meta/00003.yml", interleave_value=127.3)
    if shifts:
        np.save(folder / "responses/meta/phase_shifts.npy", np.array([0.0, 0.012, 0.05, -0.02, 0.11]))
        edit_yaml(folder / "responses/meta.yml", phase_shift_per_signal=True)
    if not statistics:
        for device in ("responses", "eye_tracker"):
            (folder / device / "meta/means.npy").unlink()
            (folder / device / "meta/stds.npy").unlink()
    return folder


@pytest.mark.parametrize(
    ("dtype", "shifts", "statistics"),
    [("float16", True, True), ("float64", False, False), (">f4", True, False), ("uint8", False, True),
     ("bool", False, False)],
)  # fmt: skip
def test_odd_types_rates_and_clocks_come_back(
    write_session, edit_yaml, tmp_path, monkeypatch, dtype, shifts, statistics
):
    folder = odd_session(write_session(), edit_yaml, dtype=dtype, shifts=shifts, statistics=statistics)
    # Batches of few rows, so that windows cross from one into the next.
    monkeypatch.setattr(dataset_writer, "CHUNK_BYTES", 60_000)
    source = open_recording(folder)
    source.to_dataset(tmp_path / "out")
    found = open_recording(tmp_path / "out")
    assert len(found.responses.table.layout.batches) > 4
    assert found.responses.dtype == np.dtype(dtype).newbyteorder("=").name
    assert assert_same_windows(found, source)
    processor = OmniMouseProcessor("strict")
    assert np.array_equal(mean_responses(found, processor), mean_responses(source, processor), equal_nan=True)


def test_a_device_without_channels_stays_one(write_session, tmp_path):
    whole = open_recording(write_session())
    nothing = devices.SequenceDevice("treadmill", Path("nowhere"), 1.0, -np.inf, np.inf, (0, 0), "float32")
    source = dataclasses.replace(whole, treadmill=nothing)
    assert "treadmill" not in source.to_dataset(tmp_path / "out").column_names
    found = open_recording(tmp_path / "out")
    assert found.treadmill.valid_range == (-np.inf, np.inf) and found.treadmill.shape == (0, 0)
    assert list(found.treadmill.chunks()) == [] and found.treadmill.nan_rows().tolist() == []
    assert (found.start_time, found.end_time) == (source.start_time, source.end_time)
    rows = np.arange(90)
    assert np.array_equal(found.eye_tracker.read(rows), source.eye_tracker.read(rows))


def test_a_second_copy_of_the_form_is_the_first(written, tmp_path):
    open_recording(written).to_dataset(tmp_path / "again")
    for file in written.iterdir():
        assert (tmp_path / "again" / KEY / file.name).read_bytes() == file.read_bytes(), file.name


# What somebody sees who knows only `datasets`.


def test_rows_say_what_was_going_on(write_session, edit_yaml, tmp_path):
    source = open_recording(odd_session(write_session(), edit_yaml, dtype="float32", shifts=False, statistics=True))
    rows = source.to_dataset(tmp_path / "out").with_format("numpy")  # which narrows float64
    assert len(rows) == source.responses.shape[0]
    seen = {"modalities": set(), "tiers": set()}
    for index in range(len(rows)):
        row = rows[index]
        time = source.responses.start_time + index / 30
        assert row["t"] == index / 30
        shown = [trial for trial in source.trials if trial.start <= time + 1e-4 and time < trial.end]
        if not shown:
            assert row["trial"] is None and row["tier"] is None
            continue
        trial = shown[-1]
        assert (row["trial"], row["tier"], row["modality"]) == (trial.index, trial.tier, trial.modality)
        assert row["condition_hash"] == trial.condition_hash
        picture = source.screen.frames_at(np.array([time]), height=36, width=64)[0]
        assert np.array_equal(row["video"], picture, equal_nan=True)
        assert np.array_equal(row["responses"], source.responses.data[index])
        for device in (source.eye_tracker, source.treadmill):
            position = (time - device.start_time) * device.sampling_rate
            if abs(position - round(position)) > 1e-3:
                assert np.array_equal(row[device.name], device.data[int(position)].astype(np.float32), equal_nan=True)
        seen["modalities"].add(trial.modality)
        seen["tiers"].add(trial.tier)
    assert seen["modalities"] == {"video", "image", "blank", "invalid"}
    assert seen["tiers"] == {None, "train", "validation", "final_test", "oracle"}


def test_every_frame_is_stored_once(write_session, tmp_path):
    source = open_recording(write_session())
    source.to_dataset(tmp_path / "out")
    tables = {
        name: datasets.Dataset.from_file(str(tmp_path / "out" / KEY / f"{name}.arrow"))
        for name in ("screen", "recording", "between")
    }
    assert np.array_equal(tables["screen"]["timestamp"][:], source.screen.timestamps)
    shown, between = tables["recording"]["frame"][:], tables["between"]["frame"][:]
    stored = []
    for index, frame in enumerate(tables["screen"]):
        assert frame["row"] < 0 or (shown[frame["row"]] == index and index not in shown[: frame["row"]])
        if frame["between"] >= 0:
            assert frame["row"] < 0 and between[frame["between"]] == index
            stored.append(index)
    assert stored == between and len(between) > 100, "every other frame of the clip at 60 Hz"
    seen = {index for index in shown if index is not None}
    stimuli = [range(trial.first_frame, trial.first_frame + trial.n_frames) for trial in source.trials if trial.tier]
    assert set().union(*stimuli) <= seen | set(between)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sampling_rate": 1e9}, "from 720 rows"),
        ({"sampling_rate": 1e-9, "end_time": 1e12}, "less than a week"),
        ({"end_time": 1e12}, "less than a week"),
        ({"sampling_rate": 0.0}, "more than 0 Hz"),
        ({"start_time": 1e18, "end_time": 1.1e18}, "milliseconds"),
    ],
)
def test_numbers_of_the_description_are_looked_at_before_they_are_used(written, changes, text):
    file = written / "recording.json"
    content = json.loads(file.read_text())
    content["devices"]["responses"] |= changes
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=text):
        open_recording(written)


def test_more_rows_than_a_file_has_bits_are_refused(written):
    file = written / "recording.json"
    content = json.loads(file.read_text())
    content["tables"]["recording.arrow"] |= {"rows": 10**15, "step": 10**15, "batches": [0]}
    content["devices"]["responses"]["shape"][0] = 10**15
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="do not fit"):
        open_recording(written)


def test_load_dataset_finds_every_table(written, write_session, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    other = write_session("dynamic8-1-1-Video-abc_30hz")
    (other / "meta.json").write_text(json.dumps({"data_key": "8-1-1"}))
    card = written.parent / "README.md"
    card.write_text(card.read_text() + "\nA line of somebody's own.\n")
    open_recording(other).to_dataset(written.parent)
    assert "A line of somebody's own." in card.read_text()
    names = datasets.get_dataset_config_names(str(written.parent))
    assert names == [key + suffix for key in (KEY, "8-1-1") for suffix in (
        "", ".eye_tracker", ".treadmill", ".screen", ".between", ".trials", ".eye_tracker.signals",
        ".responses.signals", ".treadmill.signals")]  # fmt: skip
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(written.parent), KEY, split="recording", cache_dir=cache)
    assert rows[3] == datasets.Dataset.from_file(str(written / "recording.arrow"))[3]
    trials = datasets.load_dataset(str(written.parent), f"{KEY}.trials", split="recording", cache_dir=cache)
    assert trials["tier"][:] == [trial.tier for trial in open_recording(written).trials]


def test_load_dataset_sees_that_a_recording_was_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    values = np.random.default_rng(0).gamma(1.0, 1.0, (900, 3)).astype(np.float32)
    cards = []
    for written in (values, values + 1, values + 1):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        recording_from_arrays(written, 15.0, session_key="m1-1-1").to_dataset(tmp_path / "out")
        rows = datasets.load_dataset(
            str(tmp_path / "out"), "m1-1-1", split="recording", cache_dir=str(tmp_path / "cache")
        )
        assert rows[0]["responses"] == written[0].tolist()
        cards.append((tmp_path / "out/README.md").read_text())
    assert cards[0] != cards[1] == cards[2], "the same content has the same card"


# Using it.


def test_finetune_evaluate_recipes_and_commands_take_it(simulated, tmp_path, capsys):
    source = open_recording(simulated)
    out = tmp_path / "out"
    assert main(["export", str(simulated), "--output", str(out), "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["recordings"][0]
    assert (entry["folder"], entry["rows"]) == (str(out / source.session_key), source.responses.shape[0])
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    settings = {"steps": 2, "batch_size": 2, "masks": ["stimulus"], "cpu": True, "num_workers": 1, "progress": False}
    finetune(model, open_recording(out), **settings)
    found, expected = (
        evaluate(model, place, tasks=["stimulus"], max_windows=4, progress=False) for place in (out, simulated)
    )
    assert np.array_equal(found["stimulus"].per_neuron, expected["stimulus"].per_neuron, equal_nan=True)
    sessions = find_sessions(RecordingsRecipe(paths=(str(out / "*"),), tiers=("train",)))
    assert [info.path for info in sessions.values()] == [out / source.session_key]
    assert main(["check", str(out)]) == 0
    assert "Sound: 0 fatal findings" in capsys.readouterr().out
    ours, theirs = (describe(open_recording(place)) for place in (out, simulated))
    assert {**ours, "path": 0, "devices": 0} == {**theirs, "path": 0, "devices": 0}
    assert describe_path(out)["session_key"] == source.session_key


def first_responses(windows: Windows) -> bytes:
    return windows[3]["responses"].numpy().tobytes()


def test_worker_processes_get_windows_without_data(written):
    windows = Windows(open_recording(written), "train")
    expected = first_responses(windows)
    assert len(pickle.dumps(windows.recording)) < 20_000 < (written / "recording.arrow").stat().st_size
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(first_responses, windows).result() == expected


def test_memory_does_not_grow_with_the_recording(write_session, edit_yaml, tmp_path, monkeypatch):
    """40 MB of responses pass through buffers of about 1 MB."""
    folder = write_session()
    responses = np.lib.format.open_memmap(folder / "responses/data.npy", "w+", np.float32, (720, 14_000))
    responses[:] = np.arange(14_000)
    responses.flush()
    for name in ("means", "stds"):
        np.save(folder / f"responses/meta/{name}.npy", np.ones(14_000))
    (folder / "responses/meta/unit_ids.npy").unlink()
    edit_yaml(folder / "responses/meta.yml", n_signals=14_000)
    for module in (devices, dataset_writer):
        monkeypatch.setattr(module, "CHUNK_BYTES", 2**20)
    source, default = open_recording(folder), pa.default_memory_pool()
    pool = pa.proxy_memory_pool(default)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        source.to_dataset(tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(default)
    assert (tmp_path / "out" / KEY / "recording.arrow").stat().st_size > 40e6
    assert peak < 15e6


# Whole or not at all, and refusals.


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_what_fails_midway_leaves_nothing(write_session, tmp_path, monkeypatch):
    source = open_recording(write_session())
    real = dataset_writer.Writer._write_screen

    def fail(self):
        real(self)
        raise OSError("No space left on device")

    monkeypatch.setattr(dataset_writer.Writer, "_write_screen", fail)
    with pytest.raises(OSError, match="No space left"):
        source.to_dataset(tmp_path / "out")
    assert left_in(tmp_path / "out") == []


def test_what_cannot_be_written_is_refused_before_anything_is(write_session, written, tmp_path, monkeypatch):
    def refused(recording, folder, *parts):
        before = left_in(folder)
        with pytest.raises(ValueError) as error:
            recording.to_dataset(folder)
        assert not [part for part in parts if part not in str(error.value)], str(error.value)
        assert left_in(folder) == before

    source = open_recording(write_session("other"))
    refused(source, written.parent, KEY, "exists already; remove it")
    refused(source, source.path / "inside", "never written to")
    for name, shape, parts in (
        ("small", (120, 18, 32), ("several sizes", "(18, 32)", "resize")),
        ("colour", (120, 36, 64, 3), ("expected grey frames",)),
        ("short", (100, 36, 64), ("100 frames, but 120 were shown",)),
    ):
        folder = write_session(name)
        np.save(folder / "screen/data/00007.npy", np.zeros(shape, np.uint8))
        refused(open_recording(folder), tmp_path / "no", "00007.npy", *parts)
    folder = write_session("long")
    np.save(folder / "responses/data.npy", np.ones((720, 5), np.longdouble))
    refused(open_recording(folder), tmp_path / "no", "Arrow has no type for")
    (source.path / "meta.json").write_text(json.dumps({"data_key": "a/b"}))
    refused(open_recording(source.path), tmp_path / "no", "'a/b' cannot name a folder")


def test_several_recordings_are_told_apart_by_their_session(written, tmp_path):
    other = written.parent / "9-9-9"
    shutil.copytree(written, other)
    content = json.loads((other / "recording.json").read_text())
    (other / "recording.json").write_text(json.dumps({**content, "session_key": "9-9-9"}))
    for session in (KEY, "9-9-9"):
        assert open_recording(written.parent, session=session).session_key == session
        assert open_recording(written.parent / session).session_key == session
    for session, found in ((None, "none; there are 2"), ("8-8-8", "'8-8-8'")):
        with pytest.raises(ValueError) as error:
            open_recording(written.parent, session)
        assert found in str(error.value) and f"of: {KEY}, 9-9-9" in str(error.value)
    (finding,) = check_recording(written.parent)
    assert finding.severity == "fatal" and "9-9-9" in finding.what_to_do
    with pytest.raises(ValueError, match=f"is the recording of session '{KEY}', not of '9-9-9'"):
        open_recording(written, session="9-9-9")
    with pytest.raises(ValueError, match=r"unknown arguments subfolder; .*revision"):
        open_recording(written, subfolder="x")


def rewrite(folder: Path, name: str, change) -> None:
    """Puts a function of a table in its place, and describes it as it is."""
    with pa.OSFile(str(folder / name)) as source:
        table = change(pa.ipc.open_stream(source).read_all().combine_chunks())
    columns = [column.chunk(0) for column in table.columns]
    layout = arrow_tables.write_table(folder / name, table.schema, [columns])
    content = json.loads((folder / "recording.json").read_text())
    described(folder, tables={**content["tables"], name: dataclasses.asdict(layout)})


def described(folder: Path, **changes) -> None:
    file = folder / "recording.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def cut(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])


FAULTS = {
    "truncated": (lambda f: cut(f / "recording.arrow", 300_000), ("recording.arrow", "300000 bytes", "Copy the whole")),
    "a little less": (lambda f: cut(f / "trials.arrow", -8), ("trials.arrow: file", "expected 11 rows in")),
    "empty": (lambda f: cut(f / "screen.arrow", 0), ("screen.arrow", "expected 726 rows in", "found 0 bytes")),
    "lost": (lambda f: (f / "eye_tracker.arrow").unlink(), ("eye_tracker.arrow", "no such file")),
    "pointer": (
        lambda f: (f / "recording.arrow").write_text("version https://git-lfs.github.com/spec/v1"),
        ("a Git LFS pointer", "git lfs pull"),
    ),
    "no metadata": (lambda f: (f / "recording.json").unlink(), ("recording.json", "no such file")),
    "not JSON": (lambda f: (f / "recording.json").write_text("{"), ("recording.json", "valid json")),
    "another version": (lambda f: described(f, version=2), ("version: expected 1, found 2", "Upgrade omnimouse")),
    "an older version": (lambda f: described(f, version=0), ("version: expected 1, found 0", "Write the recording")),
    "something else": (lambda f: described(f, format="x"), ("expected 'omnimouse-recording', found 'x'",)),
    "a key less": (lambda f: described(f, devices={}), ("recording.json: content", "KeyError", "responses")),
    "a path": (
        lambda f: described(f, tables={"../x.arrow": {"rows": 1, "bytes": 9, "step": 1, "batches": [0]}}),
        ("names of files beside it", "../x.arrow"),
    ),
    "another column": (
        lambda f: rewrite(f, "treadmill.arrow", lambda table: table.rename_columns(["t", "speed"])),
        ("schema, column 'treadmill'", "float64 in lists of 1", "columns t, speed"),
    ),
    "another type": (
        lambda f: rewrite(f, "screen.arrow", lambda table: table.cast(
            pa.schema([field.with_type(pa.int32()) if field.name == "row" else field for field in table.schema]))),
        ("schema, column 'row'", "a column of int64, found int32"),
    ),
    "fewer rows": (
        lambda f: rewrite(f, "treadmill.arrow", lambda table: table.slice(0, 99)), ("rows: expected 1960, found 99",)
    ),
    "a clock that runs back": (
        lambda f: rewrite(f, "screen.arrow", lambda table: table.take(list(reversed(range(len(table)))))),
        ("screen.arrow: timestamps", "increasing seconds"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(written, fault):
    damage, parts = FAULTS[fault]
    damage(written)
    with pytest.raises(ValueError) as error:
        open_recording(written.parent)
    assert not [part for part in parts if part not in str(error.value)], str(error.value)
    fatal = [finding for finding in check_recording(written) if finding.severity == "fatal"]
    assert fatal and all(str(finding) in str(error.value) for finding in fatal)


def test_the_check_reads_samples_and_pictures(write_session, tmp_path):
    folder = write_session()
    responses = np.load(folder / "responses/data.npy")
    responses[100, 2] = np.nan
    np.save(folder / "responses/data.npy", responses)
    for name in ("00001", "00007", "00008", "00009", "00002", "00004"):
        file = folder / f"screen/data/{name}.npy"
        np.save(file, np.load(file).astype(np.float32) / 300)
    np.save(folder / "responses/meta/stds.npy", np.full(5, -1.0))
    open_recording(folder).to_dataset(tmp_path / "out")
    findings = open_recording(tmp_path / "out").validate()
    there = {path.name for path in (tmp_path / "out" / KEY).iterdir()}
    assert "responses.signals.arrow" in {Path(finding.path).name for finding in findings} <= {*there, KEY}
    found = {finding.field for finding in findings}
    assert {"value range", "modality"} <= found and any("NaN" in field or "nan" in field for field in found), found
    small = OmniMouseProcessor("strict", frame_height=18, frame_width=32)
    findings = check_recording(tmp_path / "out", processor=small)
    assert "expected 18 x 32, found 36 x 64" in " ".join(map(str, findings))


# The tables themselves.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint16", "uint64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_any_rows_of_a_table_are_those_that_were_written(tmp_path, dtype, shape):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (50, *shape)).astype(dtype)
    column = arrow_tables.as_column(values)
    parts = [[column.slice(low, 16)] for low in range(0, 50, 16)]
    layout = arrow_tables.write_table(tmp_path / "x.arrow", pa.schema([("x", column.type)]), parts)
    table = arrow_tables.MappedTable(tmp_path / "x.arrow", layout)
    assert table.has_column("x", dtype, shape) and not table.has_column("x", dtype, (*shape, 1))
    for low, high in itertools.combinations(range(0, 51, 3), 2):
        found = table.rows("x", low, high)
        assert found.dtype == dtype and np.array_equal(found, values[low:high])
    one = table.rows("x", 3, 9)
    assert 0 <= one.ctypes.data - table._address < layout.bytes, "rows of one batch are where the file is mapped"


def test_a_damaged_batch_is_refused_with_its_rows(written):
    recording = open_recording(written)
    layout = recording.screen.tables["recording.arrow"].layout
    with open(written / "recording.arrow", "r+b") as file:
        file.seek(layout.batches[0] + 8)
        file.write(b"x" * 64)
    with pytest.raises(ValueError, match=r"recording.arrow: rows 0 to 719 cannot be read .* copy the file again"):
        open_recording(written).responses.read(np.arange(60))
    assert any("cannot be read" in finding.found for finding in check_recording(written) if finding.severity == "fatal")
    for wrong in ({"step": 0}, {"batches": []}, {"batches": [layout.bytes]}, {"rows": 10**9}):
        tables = json.loads((written / "recording.json").read_text())["tables"]
        described(written, tables={**tables, "trials.arrow": {**tables["trials.arrow"], **wrong}})
        with pytest.raises(ValueError, match="do not make a table"):
            open_recording(written)
        described(written, tables=tables)


@pytest.mark.parametrize("wrong", [10**12, 3])
def test_frames_that_lie_in_no_row_are_refused(written, wrong):
    def change(table: pa.Table) -> pa.Table:
        rows = table["row"].to_numpy().copy()
        rows[50] = wrong
        return table.set_column(table.schema.get_field_index("row"), "row", pa.array(rows))

    rewrite(written, "screen.arrow", change)
    recording = open_recording(written)
    shown = recording.screen.timestamps[40:60] + 1e-3
    with pytest.raises(ValueError, match=r"screen.arrow: frames .* are said to lie in rows .* copy the file again"):
        recording.screen.frames_at(shown, height=36, width=64)
    assert any("are said to lie in rows" in finding.found for finding in check_recording(written))


def test_recordings_from_arrays_and_what_they_lack_come_back(tmp_path):
    rng = np.random.default_rng(4)
    arrays = {"responses": rng.gamma(2, 2, (1500, 3)).astype(np.float32), "rate": {"responses": 30.0, "behavior": 25.0}}
    gaze = {"gaze_x": rng.normal(size=1250), "lick": rng.normal(size=1250)}
    video = rng.integers(0, 256, (1500, 72, 100), dtype=np.uint8)
    for key, more in {"full-1-1": {"video": video, "behavior": gaze}, "bare-1-1": {}}.items():
        source = recording_from_arrays(**arrays, **more, session_key=key)
        source.to_dataset(tmp_path)
        copy = open_recording(tmp_path, session=key)
        with warnings.catch_warnings():  # what was not recorded lacks no statistics
            warnings.filterwarnings("ignore", message=".*statistics for responses;")
            warnings.filterwarnings("error", message=".*statistics for .*(eye_tracker|treadmill)")
            if key == "bare-1-1":
                Windows(copy, "train")
        assert copy.behavior_channels == source.behavior_channels and copy.has_video == source.has_video
        for profile in ("strict", "published"):
            processor = OmniMouseProcessor(profile=profile)
            ours, theirs = (Windows(each, "train", 40, processor=processor, quiet=True) for each in (copy, source))
            assert np.array_equal(ours.starts, theirs.starts) and len(ours) > 5
            assert (ours.missing, ours.missing_channels) == (theirs.missing, theirs.missing_channels)
            for i in range(len(ours)):
                assert ours[i].keys() == theirs[i].keys()
                for name, values in ours[i].items():
                    assert torch.equal(values.nan_to_num(9e9), theirs[i][name].nan_to_num(9e9)), name
        assert not [finding for finding in check_recording(tmp_path / key) if finding.severity == "fatal"]


def test_windows_can_be_held(written, held_alike):
    held_alike(Windows(open_recording(written), "train", 5, processor=OmniMouseProcessor()))
