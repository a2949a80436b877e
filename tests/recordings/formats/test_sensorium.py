"""SENSORIUM 2023 folders as distributed: opened, checked, windowed, trained and scored on, zipped or not."""

from __future__ import annotations

import json
import pickle
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SMALLEST

from omnimouse import OmniMouseConfig, OmniMouseModel, OmniMouseProcessor, evaluate, finetune, predict
from omnimouse.cli.describe import describe_path, to_text
from omnimouse.recordings import Windows, check_recording, describe, mean_responses, open_recording
from omnimouse.training.pretraining.corpus_recordings import find_sessions
from omnimouse.training.pretraining.pretraining_recipe import RecordingsRecipe

NAME = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
TIERS = ("train", "live_test_main", "train", "oracle", "train", "none", "train", "oracle", "final_test_main", "train")
NEURONS, LENGTH, PADDED = 6, 90, 97


def padded(array: np.ndarray, length: int) -> np.ndarray:
    out = np.full((*array.shape[:-1], length), np.nan, dtype=array.dtype)
    out[..., : array.shape[-1]] = array
    return out


def write_sensorium(root: Path, *, withhold: tuple[str, ...] = ("live_test_main", "final_test_main")) -> Path:
    """Writes a session in the distributed layout; the frames of trial i are grey levels 10 i, 10 i + 0.1, ..."""
    rng = np.random.default_rng(5)
    (root / "meta/trials").mkdir(parents=True)
    (root / "meta/neurons").mkdir()
    (root / "config.json").write_text(json.dumps({"links": {}}))
    kept: dict[str, list[np.ndarray]] = {"videos": [], "responses": [], "behavior": [], "pupil_center": []}
    for trial, tier in enumerate(TIERS):
        frames = (10 * trial + 0.1 * np.arange(LENGTH)).astype(np.float32)
        size = 50 + np.cumsum(rng.standard_normal(LENGTH))
        arrays = {
            "videos": np.broadcast_to(frames, (36, 64, LENGTH)),
            "responses": rng.gamma(2.0, 2.0, (NEURONS, LENGTH)),
            "behavior": np.stack([size, rng.gamma(1.0, 1.0, LENGTH)]),
            "pupil_center": rng.normal([[140.0], [90.0]], 3.0, (2, LENGTH)),
        }
        for kind, array in arrays.items():
            kept[kind].append(array)
            array = padded(array, PADDED)
            (root / "data" / kind).mkdir(parents=True, exist_ok=True)
            hidden = kind == "responses" and tier in withhold
            np.save(root / f"data/{kind}/{trial}.npy", np.zeros_like(array) if hidden else array)
    for kind in ("responses", "behavior", "pupil_center"):
        folder = root / f"meta/statistics/{kind}/all"
        folder.mkdir(parents=True)
        everything = np.stack(kept[kind])
        # With a time axis: moments over trials at each time.
        np.save(folder / "mean.npy", padded(everything.mean(axis=0), PADDED))
        np.save(folder / "std.npy", padded(everything.std(axis=0), PADDED))
    np.save(root / "meta/neurons/unit_ids.npy", np.arange(NEURONS) * 3 + 1)
    np.save(root / "meta/neurons/cell_motor_coordinates.npy", np.zeros((NEURONS, 3), dtype=int))
    np.save(root / "meta/trials/tiers.npy", np.array(TIERS))
    np.save(root / "meta/trials/trial_idx.npy", np.array([f"{trial * 7919:032x}" for trial in range(len(TIERS))]))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sound session that no test changes."""
    return write_sensorium(tmp_path_factory.mktemp("sensorium") / NAME)


@pytest.fixture
def copy(folder, tmp_path):
    """A session that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / NAME))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "recordings-1"


def stored(folder: Path, kind: str, trial: int) -> np.ndarray:
    return np.load(folder / f"data/{kind}/{trial}.npy")[..., :LENGTH]


def change(folder: Path, kind: str, function, trials=(2,)) -> None:
    for trial in trials:
        file = folder / f"data/{kind}/{trial}.npy"
        np.save(file, function(np.load(file)))


def fatal(folder: Path) -> str:
    """The findings of a folder that can be neither opened nor found sound."""
    with pytest.raises(ValueError) as error:
        open_recording(folder)
    listed = [str(finding) for finding in check_recording(folder) if finding.severity == "fatal"]
    assert all(finding in str(error.value) for finding in listed), (listed, str(error.value))
    assert listed
    return "\n".join(listed)


def test_what_a_folder_tells(folder):
    recording = open_recording(folder)
    assert (recording.session_key, recording.animal_id, recording.n_neurons) == ("29515-10-12", "29515", NEURONS)
    assert recording.unit_ids.tolist() == [1, 4, 7, 10, 13, 16]
    assert recording.tiers == ["train", "live_test_main", "oracle", "none", "final_test_main"]
    assert recording.withheld_tiers == ("live_test_main", "final_test_main")
    trial = recording.trials[3]
    assert (trial.tier, trial.modality, trial.n_frames, trial.image_size) == ("oracle", "video", LENGTH, (36, 64))
    assert trial.trial_id == f"{3 * 7919:032x}"
    assert trial.end - trial.start == pytest.approx(LENGTH / 30)
    assert {finding.field for finding in recording.findings} == {
        "pupil_size_derivative",
        "responses of tier 'live_test_main'",
        "responses of tier 'final_test_main'",
    }


def test_opening_and_reading_write_nothing(copy, tree_hash):
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree_hash(copy)
    recording = open_recording(copy)
    Windows(recording, "train", 10).batch(range(3))
    mean_responses(recording, OmniMouseProcessor())
    recording.validate()
    assert tree_hash(copy) == before
    assert all(len(device.clips._open) <= 16 for device in recording.devices)


@pytest.mark.parametrize("profile", ["strict", "published", "experanto-main"])
def test_windows_are_those_of_the_files(folder, profile):
    processor = OmniMouseProcessor(profile=profile)
    recording = open_recording(folder)
    windows = Windows(recording, ("train", "oracle"), processor=processor)
    # Trials beside each other share tiers, and still no window reaches from one into another.
    assert len(windows) == sum(tier in ("train", "oracle") for tier in TIERS) * (LENGTH - 60 + 1)
    stds = processor.floored_response_stds(recording.responses.stds)
    behavior = [
        processor.behavior_statistics(*recording.statistics(device))
        for device in (recording.eye_tracker, recording.treadmill)
    ]
    means, spreads = (np.concatenate([part[i] for part in behavior]) for i in (0, 1))
    for index in range(len(windows)):
        trial, first = windows.trial_index(index), index % 31
        window = windows[index]
        np.testing.assert_allclose(
            window["responses"], stored(folder, "responses", trial)[:, first : first + 60].T / stds, rtol=1e-5
        )
        frames = window["video"][0, :, 5, 7].numpy() * 59 + 113
        np.testing.assert_allclose(frames, 10 * trial + 0.1 * np.arange(first, first + 60), atol=1e-4)
        # Behaviour goes from 30 to 20 Hz by the last sample at i / 20 s.
        rows = first + np.floor(np.arange(40) * 1.5 + 1e-9).astype(int)
        size, speed = stored(folder, "behavior", trial)
        channels = np.stack([size, np.gradient(size) * 30, *stored(folder, "pupil_center", trial), speed])
        expected = (channels[:, rows] - means[:, None]) / spreads[:, None]
        np.testing.assert_allclose(window["behavior"], expected, rtol=1e-4, atol=1e-4)
    assert recording.trials[windows.trial_index(31)].index == 2


def test_statistics_are_stored_ones_pooled_over_time_and_of_the_train_tier_where_derived(folder):
    recording = open_recording(folder)
    everything = np.concatenate([stored(folder, "behavior", trial) for trial in range(len(TIERS))], axis=1)
    np.testing.assert_allclose(recording.treadmill.means, everything[1:].mean(axis=1))
    np.testing.assert_allclose(recording.treadmill.stds, everything[1:].std(axis=1))
    np.testing.assert_allclose(recording.eye_tracker.stds[0], everything[0].std())
    train = [np.gradient(stored(folder, "behavior", i)[0]) * 30 for i, tier in enumerate(TIERS) if tier == "train"]
    np.testing.assert_allclose(recording.eye_tracker.stds[1], np.std(train))
    means = mean_responses(recording, OmniMouseProcessor())
    train = [stored(folder, "responses", i) for i, tier in enumerate(TIERS) if tier == "train"]
    np.testing.assert_allclose(means, np.mean(train, axis=(0, 2)) / recording.responses.stds, rtol=1e-6)


def test_missing_statistics_are_computed_from_the_train_tier(copy):
    shutil.rmtree(copy / "meta/statistics")
    recording = open_recording(copy)
    with pytest.warns(UserWarning, match="no stored statistics for responses, eye_tracker, treadmill"):
        Windows(recording, "train")
    train = np.concatenate([stored(copy, "responses", i) for i, tier in enumerate(TIERS) if tier == "train"], axis=1)
    means, stds = recording.statistics(recording.responses)
    np.testing.assert_allclose(means, train.mean(axis=1))
    np.testing.assert_allclose(stds, train.std(axis=1))


def test_padding_that_begins_at_different_frames_ends_a_trial_at_the_first(copy):
    def shorter(array, by):
        array = array.copy()
        array[..., LENGTH - by :] = np.nan
        return array

    change(copy, "responses", lambda array: shorter(array, 3), [0])
    change(copy, "pupil_center", lambda array: shorter(array, 7), [2])
    change(copy, "videos", lambda array: shorter(array, 40), [4])
    change(copy, "behavior", lambda array: array[:, :LENGTH], [6])
    change(copy, "pupil_center", lambda array: array[:, :LENGTH], [6])
    change(copy, "videos", lambda array: array[..., :LENGTH], [6])
    change(copy, "responses", lambda array: array[..., :LENGTH], [6])
    recording = open_recording(copy)
    assert [recording.trials[i].n_frames for i in (0, 2, 4, 6)] == [87, 83, 50, 90]
    assert len(Windows(recording, "train")) == 28 + 24 + 0 + 31 + 31
    assert torch.isfinite(Windows(recording, "train").batch(range(0, 114, 9))["behavior"]).all()
    findings = {finding.field: finding for finding in recording.validate()}
    assert "found 50" in str(findings["valid frames"]) and "4.npy" in findings["valid frames"].path
    assert "frame 87" in findings["padding of behavior"].expected


def test_clips_without_padding_are_kept_apart_too(copy):
    for kind in ("videos", "responses", "behavior", "pupil_center"):
        change(copy, kind, lambda array: array[..., :LENGTH], range(len(TIERS)))
    np.save(copy / "meta/trials/tiers.npy", np.array(["train"] * len(TIERS)))
    windows = Windows(open_recording(copy), "train", processor=OmniMouseProcessor())
    assert len(windows) == len(TIERS) * 31
    assert all((window["video"].diff(dim=1) * 59 < 1).all() for window in windows)


def test_no_window_touches_a_lost_eye(copy):
    def lose(array):
        array = array.copy()
        array[0, 70] = np.nan
        return array

    change(copy, "pupil_center", lose, [0])
    recording = open_recording(copy)
    windows = Windows(recording, "train", processor=OmniMouseProcessor())
    assert sum(windows.trial_index(i) == 0 for i in range(len(windows))) == 70 - 1 - 60 + 1
    finding = next(finding for finding in recording.validate() if finding.field == "NaN inside pupil_center")
    assert (finding.severity, finding.found) == ("warning", "1 of 90 frames, the first at frame 70")


def test_withheld_tiers_are_refused_with_the_tiers_that_are_left(folder):
    recording = open_recording(folder)
    for profile in ("strict", "published"):
        with pytest.raises(ValueError, match=r"tier 'final_test_main' are withheld .*'train', 'oracle', 'none'$"):
            Windows(recording, ["oracle", "final_test_main"], processor=OmniMouseProcessor(profile=profile))
    described = describe(recording)
    assert described["tiers"]["final_test_main"]["windows"] is None
    assert described["tiers"]["train"] == {"trials": 5, "seconds": 15.0, "conditions": 5, "windows": 155}


def test_public_test_responses_are_used(tmp_path):
    recording = open_recording(write_sensorium(tmp_path / NAME, withhold=()))
    assert recording.withheld_tiers == ()
    assert len(Windows(recording, "final_test_main")) == 31


def test_responses_without_files_are_withheld_too(copy):
    (copy / "data/responses/1.npy").unlink()
    change(copy, "responses", lambda array: np.full_like(array, np.nan), [8])
    assert open_recording(copy).withheld_tiers == ("live_test_main", "final_test_main")
    (copy / "data/responses/2.npy").unlink()
    assert "data/responses: files: expected 0.npy to 9.npy" in fatal(copy) and "1 missing (2)" in fatal(copy)


def test_single_trials_without_responses_are_noticed(copy):
    change(copy, "responses", np.zeros_like, [2, 4])
    assert open_recording(copy).withheld_tiers == ("live_test_main", "final_test_main")
    finding = next(finding for finding in check_recording(copy) if finding.field == "silent trials")
    assert (finding.severity, finding.found) == ("warning", "zeros or NaN throughout (and 1 more files like it)")


def test_a_silent_first_neuron_is_not_taken_for_withheld_responses(copy):
    def silence(array):
        array = array.copy()
        array[0] = 0
        return array

    change(copy, "responses", silence, range(len(TIERS)))
    assert open_recording(copy).withheld_tiers == ("live_test_main", "final_test_main")


def test_recordings_are_pickled_without_open_files(folder):
    windows = Windows(open_recording(folder), "train")
    windows[0]
    again = pickle.loads(pickle.dumps(windows))
    assert not again.recording.responses.clips._open
    assert torch.equal(again[40]["responses"], windows[40]["responses"])


def test_finetune_and_evaluate(folder, tmp_path):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    recording = open_recording(folder)
    settings = {"steps": 2, "batch_size": 2, "masks": ["stimulus", "stimulus+behavior"], "cpu": True, "num_workers": 1}
    with pytest.raises(ValueError, match=r"no tier 'validation' to validate on; its tiers are train, live_test_main"):
        finetune(model, recording, validation_tier="validation", **settings)
    with pytest.raises(ValueError, match="withheld"):
        finetune(model, recording, train_tiers=("train", "live_test_main"), validation_tier="oracle", **settings)
    output = tmp_path / "run"
    result = finetune(model, recording, output_dir=output, progress=False, **settings)
    assert len(result.tiers.held_out) == 1 and recording.trials[result.tiers.held_out[0]].tier == "train"
    assert (result.session, len(result.history) > 0) == ("29515-10-12", True)
    assert model.session_spec("29515-10-12").animal_id == "29515"
    scores = evaluate(model, folder, tasks=["stimulus", "behavior"], progress=False)
    assert scores.tier == "oracle" and scores.settings["tier_in_training"] is None
    assert len(scores.tasks) == 2
    predicted = predict(model, recording, "stimulus", tier="oracle", progress=False)
    assert predicted.neuron_ids.tolist() == recording.unit_ids.tolist()
    np.testing.assert_allclose(
        predicted.targets[0] * recording.responses.stds, stored(folder, "responses", 3)[:, 30:60].T, rtol=1e-4
    )
    with pytest.raises(ValueError, match="responses of tier 'live_test_main' are withheld"):
        evaluate(model, recording, tier="live_test_main", progress=False)


def test_recipes_find_it(folder):
    found = find_sessions(RecordingsRecipe(paths=(str(folder.parent / "dynamic*"),), tiers=("train",)))
    assert {key: info.path for key, info in found.items()} == {"29515-10-12": folder}
    with pytest.raises(ValueError, match="is a recording and no model"):
        OmniMouseModel.from_pretrained(folder)


def test_a_sound_folder_has_no_fatal_finding(folder):
    findings = check_recording(folder)
    assert [finding.severity for finding in findings] == ["warning", "warning", "info"]
    described = describe_path(folder)
    assert (described["session_key"], described["screen"]["frames"]) == ("29515-10-12", LENGTH * len(TIERS))
    assert "final_test_main" in to_text(described)


def without_axes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


@pytest.mark.parametrize(
    ("kind", "function", "trials", "texts"),
    [
        ("videos", lambda a: a.transpose(2, 0, 1), range(10), ("expected (36, 64, 97), found (97, 36, 64)", "9 more")),
        ("videos", lambda a: a[..., :80], [2], ("shape of videos: expected (36, 64, 97), found (36, 64, 80)",)),
        ("videos", without_axes, [2], ("expected (height, width, frames)",)),
        ("responses", lambda a: a.T, range(10), ("expected (6, 97), found (97, 6)", "axes are swapped", "9 more")),
        ("responses", lambda a: a[:5], [4], ("4.npy: shape of responses: expected (6, 97), found (5, 97)",)),
        ("responses", lambda a: a[:5], range(10), ("unit_ids.npy: length", "found 6")),
        ("behavior", lambda a: a.T, [3], ("shape of behavior: expected (2, 97), found (97, 2)", "axes are swapped")),
        ("behavior", lambda a: a[:1], [3], ("shape of behavior: expected (2, 97), found (1, 97)",)),
        ("pupil_center", lambda a: a[:, :50], [3], ("shape of pupil_center: expected (2, 97), found (2, 50)",)),
        ("behavior", lambda a: a.astype("U8"), [3], ("dtype",)),
    ],
)
def test_shapes_that_contradict_each_other(copy, kind, function, trials, texts):
    change(copy, kind, function, trials)
    found = fatal(copy)
    assert all(text in found for text in texts), found


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (lambda root: (root / "meta/trials/tiers.npy").unlink(), ("tiers.npy", "no such file")),
        (lambda root: np.save(root / "meta/trials/tiers.npy", np.array(TIERS[:8])), ("0.npy to 7.npy", "(8, 9)")),
        (lambda root: (root / "data/videos/4.npy").unlink(), ("data/videos: files", "1 missing (4)")),
        (lambda root: (root / "data/behavior/9.npy").rename(root / "data/behavior/11.npy"), ("(9)", "too many (11)")),
        (lambda root: shutil.rmtree(root / "data/pupil_center"), ("data/pupil_center: folder",)),
        (lambda root: (root / "data/videos/4.npy").write_bytes(b"\x93NUMPY"), ("4.npy: file", "do not load")),
        (
            lambda root: (root / "data/videos/4.npy").write_text("version https://git-lfs.github.com/spec/v1"),
            ("Git LFS pointer",),
        ),
        (lambda root: np.save(root / "meta/neurons/unit_ids.npy", np.arange(5)), ("unit_ids.npy: length",)),
        (lambda root: np.save(root / "meta/statistics/responses/all/std.npy", np.ones(5)), ("std.npy: length",)),
    ],
)  # fmt: skip
def test_missing_and_foreign_files(copy, damage, texts):
    damage(copy)
    found = fatal(copy)
    assert all(text in found for text in texts), found


def test_faults_that_only_the_check_sees(copy):
    change(copy, "videos", lambda array: array / 255, range(len(TIERS)))
    np.save(copy / "meta/neurons/cell_motor_coordinates.npy", np.zeros((2, 3)))
    np.save(copy / "meta/trials/trial_idx.npy", np.zeros(len(TIERS), dtype=int))
    findings = {finding.field for finding in check_recording(copy)}
    assert {"value range", "length", "trial_idx"} <= findings
    other = OmniMouseProcessor(frame_height=18, frame_width=32)
    assert "frame size" in {finding.field for finding in check_recording(copy, processor=other)}
    with pytest.raises(ValueError, match=r"videos/0\.npy: shape \(97, 36, 64\), expected \(frames, 18, 32\)"):
        Windows(open_recording(copy), "train", processor=other)[0]


def test_pickles_in_a_folder_are_not_loaded(copy):
    np.save(copy / "meta/trials/tiers.npy", np.array(TIERS, dtype=object), allow_pickle=True)
    assert "tiers.npy: file: expected a complete .npy array without Python objects" in fatal(copy)
    assert "save numbers or text" in fatal(copy)


def test_other_folders(copy, folder, tmp_path):
    with pytest.raises(ValueError, match="1 session folder one level deeper"):
        open_recording(copy.parent)
    renamed = copy.rename(tmp_path / "mine")
    recording = open_recording(renamed)
    assert (recording.session_key, recording.findings[0].field) == ("mine", "folder name")
    (renamed / "data/videos").rename(renamed / "data/images")
    assert "images/0.npy: shape of images: expected (1, 144, 256), found (36, 64, 97)" in fatal(renamed)


def zipped(folder: Path, archive: Path, *, prefix: str = f"{NAME}/") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            opened.write(file, f"{prefix}{name}")
            if name.endswith("/0.npy"):
                opened.writestr(f"__MACOSX/{prefix}{name}".replace("/0.npy", "/._0.npy"), b"resource fork")
    return archive


def test_a_zip_is_unpacked_once_into_the_cache(folder, tmp_path, cache, tree_hash):
    (tmp_path / "mine").mkdir()
    archive = zipped(folder, tmp_path / "mine" / "download.zip")
    recording = open_recording(archive)
    assert (recording.path, recording.session_key) == (archive, "29515-10-12")
    assert torch.equal(
        Windows(recording, "train")[3]["responses"], Windows(open_recording(folder), "train")[3]["responses"]
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["download.zip"]
    (copy,) = [path for path in cache.iterdir() if path.is_dir()]
    assert tree_hash(copy / NAME) == tree_hash(folder)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert [finding.severity for finding in recording.validate()] == ["warning", "warning", "info"]
    assert all(finding.path.startswith(f"{archive}/data/") for finding in [*recording.findings, *recording.validate()])
    assert describe_path(archive)["path"] == str(archive)
    assert times == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    # An archive without a folder in it: its own name is the session's.
    bare = zipped(folder, tmp_path / f"{NAME}.zip", prefix="")
    assert open_recording(bare).session_key == "29515-10-12"


def add_link(opened):
    entry = zipfile.ZipInfo(f"{NAME}/data/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    opened.writestr(entry, "/etc")


@pytest.mark.parametrize(
    ("add", "text"),
    [
        (lambda opened: opened.writestr("../outside.npy", b""), "leads out of the folder: '../outside.npy'"),
        (lambda opened: opened.writestr("/outside.npy", b""), "leads out of the folder"),
        (lambda opened: opened.writestr("a\\..\\..\\outside.npy", b""), "leads out of the folder"),
        (add_link, "a link or special file"),
        (lambda opened: opened.writestr("other/data/videos/0.npy", b""), "found 2 sessions"),
    ],
)
def test_unsafe_archives_are_refused_before_anything_is_written(folder, tmp_path, cache, add, text):
    archive = zipped(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        add(opened)
    assert text in fatal(archive)
    assert not cache.exists() and not (tmp_path / "outside.npy").exists()


def test_damaged_archives_leave_nothing_behind(folder, tmp_path, cache):
    archive = zipped(folder, tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo(f"{NAME}/data/videos/5.npy")
    content[entry.header_offset + 200] ^= 0xFF
    archive.write_bytes(content)
    assert "expected a whole zip archive" in fatal(archive)
    archive.write_bytes(content[: len(content) // 2])
    assert "expected a whole zip archive" in fatal(archive)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "data/videos/5.npy").unlink()
    assert f"{archive}/data/videos: files: " in fatal(zipped(broken, archive))
    archive.write_bytes(b"")
    assert "BadZipFile" in fatal(archive)


def test_an_interrupted_unpacking_leaves_nothing_behind(folder, tmp_path, cache, monkeypatch):
    archive, real, copied = zipped(folder, tmp_path / "a.zip"), shutil.copyfileobj, []

    def interrupted(source, sink, length):
        copied.append(source)
        if len(copied) == 9:
            raise KeyboardInterrupt
        real(source, sink, length)

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_recording(archive)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert open_recording(archive).session_key == "29515-10-12"


def test_a_full_disk_is_noticed_before_unpacking(folder, tmp_path, cache, monkeypatch):
    archive = zipped(folder, tmp_path / "a.zip")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert "Set OMNIMOUSE_CACHE to a folder on a larger disk" in fatal(archive)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("profile", ["strict", "published"])
def test_windows_can_be_held(folder, held_alike, profile):
    windows = Windows(open_recording(folder), "train", 3, processor=OmniMouseProcessor(profile), quiet=True)
    assert held_alike(windows)._tables["video"].levels is None  # grey levels here are no whole numbers
