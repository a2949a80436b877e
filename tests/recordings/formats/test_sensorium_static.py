"""SENSORIUM 2022 folders as distributed: opened, checked, windowed, trained and scored on, zipped or not."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from static_folders import IMAGES, KEY, NAME, NEURONS, TIERS, change, image, stored, trials_of, write_static

from omnimouse import OmniMouseModel, OmniMouseProcessor, evaluate, finetune, predict
from omnimouse.cli.describe import describe_path, to_text
from omnimouse.recordings import Windows, check_recording, is_static, mean_responses, open_recording, save_recording
from omnimouse.recordings.data.devices import streamed_statistics
from omnimouse.training.pretraining.corpus_recordings import find_sessions
from omnimouse.training.pretraining.pretraining_recipe import RecordingsRecipe

BEHAVIOR = ("behavior", "pupil_center")
PROFILES = ("strict", "published", "experanto-main")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sound session that no test changes."""
    return write_static(tmp_path_factory.mktemp("static") / NAME)


@pytest.fixture
def copy(folder, tmp_path):
    """A session that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / NAME))


def fatal(folder: Path) -> str:
    """The findings of a folder that can be neither opened nor found sound."""
    with pytest.raises(ValueError) as error:
        open_recording(folder)
    listed = [str(finding) for finding in check_recording(folder) if finding.severity == "fatal"]
    assert listed and all(finding in str(error.value) for finding in listed), (listed, str(error.value))
    return "\n".join(listed)


def found(folder: Path, field: str):
    """The finding about a field of a folder that can be opened."""
    open_recording(folder)
    return next(finding for finding in check_recording(folder) if finding.field == field)


def test_what_a_folder_tells(folder):
    recording = open_recording(folder)
    assert (recording.session_key, recording.animal_id, recording.n_neurons) == (KEY, "21067", NEURONS)
    assert is_static(recording)
    assert recording.unit_ids.tolist() == [1, 3, 5, 7, 9, 11, 13]
    assert recording.tiers == ["test", "train", "validation", "final_test"]
    assert recording.withheld_tiers == ("final_test",)
    trial = recording.trials[5]
    assert (trial.tier, trial.modality, trial.condition_hash, trial.trial_id) == ("test", "image", "100", 514)
    assert (trial.image_size, trial.end - trial.start) == ((144, 256), pytest.approx(2.0))
    assert {finding.field for finding in recording.findings} == {"time", "responses of tier 'final_test'"}


def test_opening_and_reading_write_nothing(copy, tree_hash):
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree_hash(copy)
    recording = open_recording(copy)
    Windows(recording, "train").batch(range(3))
    mean_responses(recording, OmniMouseProcessor())
    recording.validate()
    assert tree_hash(copy) == before
    assert all(len(device.clips._open) <= 16 for device in recording.devices)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_trial_is_one_window_of_what_its_files_hold(folder, profile):
    processor = OmniMouseProcessor(profile=profile)
    recording = open_recording(folder)
    stds = processor.floored_response_stds(np.load(folder / "meta/statistics/responses/all/std.npy"))
    moments = [
        np.concatenate([np.load(folder / f"meta/statistics/{kind}/all/{name}.npy") for kind in BEHAVIOR])
        for name in ("mean", "std")
    ]
    for tier in ("train", "validation", "test"):
        windows = Windows(recording, tier, processor=processor)
        assert [windows.trial_index(i) for i in range(len(windows))] == trials_of(tier)
        for index, trial in enumerate(trials_of(tier)):
            window = windows[index]
            assert all((window[name].diff(dim=dim) == 0).all() for name, dim in (("video", 1), ("responses", 0)))
            np.testing.assert_allclose(
                window["responses"][0], (stored(folder, "responses", trial) / stds).astype(np.float32), rtol=1e-6
            )
            blocks = image(IMAGES[trial])[0].astype(np.float64)
            blocks = np.array(
                [[blocks[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() for x in range(64)] for y in range(36)]
            )
            np.testing.assert_array_equal(
                window["video"][0, 30], (blocks.astype(np.float32) - np.float32(113)) / np.float32(59)
            )
            values = np.concatenate([stored(folder, "behavior", trial), stored(folder, "pupil_center", trial)])
            size, change, speed, x, y = (values - moments[0]) / moments[1]
            expected = np.repeat(np.array([size, change, x, y, speed])[:, None], 40, axis=1)
            np.testing.assert_allclose(window["behavior"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_nan_costs_its_own_trial_and_no_neighbour(copy, profile):
    change(copy, "pupil_center", lambda array: array * [np.nan, 1], [4])
    change(copy, "behavior", lambda array: array * np.nan, [11])
    change(copy, "behavior", lambda array: array * [1, 1, np.inf], [14])
    recording = open_recording(copy)
    windows = Windows(recording, ("train", "test", "validation"), processor=OmniMouseProcessor(profile=profile))
    left = [windows.trial_index(i) for i in range(len(windows))]
    assert left == [trial for trial, tier in enumerate(TIERS) if tier != "final_test" and trial not in (4, 11, 14)]
    assert torch.isfinite(windows.batch(range(len(left)))["behavior"]).all()
    finding = found(copy, "NaN in pupil_center")
    lost = "NaN, infinity or a number that stands for no value (-9999, 1e20): "
    assert (finding.severity, finding.found) == ("warning", lost + "gaze_x")
    assert finding.path.endswith("data/pupil_center/4.npy")
    assert found(copy, "NaN in behavior").found == (
        f"{lost}pupil_size, pupil_size_derivative, running_speed (and 1 more files like it)"
    )


def test_moments_over_trials(folder):
    recording = open_recording(folder)
    train = np.stack([stored(folder, "responses", trial) for trial in trials_of("train")])
    stds = np.load(folder / "meta/statistics/responses/all/std.npy")
    processor = OmniMouseProcessor()
    np.testing.assert_allclose(
        mean_responses(recording, processor), train.mean(axis=0) / processor.floored_response_stds(stds)
    )
    means, stds = streamed_statistics(recording.responses, recording.row_ranges(recording.responses, ["train"]))
    np.testing.assert_allclose((means, stds), (train.mean(axis=0), train.std(axis=0)))


def test_missing_statistics_are_computed_from_the_train_tier(copy):
    shutil.rmtree(copy / "meta/statistics")
    recording = open_recording(copy)
    for kind in ("responses", "behavior", "pupil_center"):
        finding = next(f for f in recording.findings if f.path.endswith(f"{kind}/all/mean.npy"))
        assert (finding.severity, finding.found) == ("warning", "no such file")
    with pytest.warns(UserWarning, match="no stored statistics for responses;"):
        Windows(recording, "train")
    train = np.stack([stored(copy, "responses", trial) for trial in trials_of("train")])
    np.testing.assert_allclose(recording.statistics(recording.responses)[1], train.std(axis=0))
    train = np.stack([stored(copy, "behavior", trial) for trial in trials_of("train")])
    np.testing.assert_allclose(recording.treadmill.means, train[:, 2:].mean(axis=0))
    np.testing.assert_allclose(recording.eye_tracker.stds[:2], train[:, :2].std(axis=0))


@pytest.mark.parametrize("profile", PROFILES)
def test_zeroed_behavior_is_named_and_reaches_the_model_as_average(tmp_path, profile):
    folder = write_static(tmp_path / NAME, no_behavior=True)
    windows = Windows(open_recording(folder), "train", processor=OmniMouseProcessor(profile=profile))
    assert len(windows) == len(trials_of("train"))
    assert (windows.batch(range(len(windows)))["behavior"] == 0).all()
    finding = found(folder, "behavior and pupil_center")
    assert "one value in all 20 trials: pupil_size (0), pupil_size_derivative (0), gaze_x (0)" in finding.found
    assert "withheld" in finding.found


def test_one_constant_channel_is_named_alone(copy):
    change(copy, "behavior", lambda array: array * [1, 1, 0] + [0, 0, 3], range(len(TIERS)))
    windows = Windows(open_recording(copy), "train", processor=OmniMouseProcessor(profile="published"))
    behavior = windows.batch(range(len(windows)))["behavior"]
    assert (behavior[:, 4] == 0).all() and behavior[:, 0].std() > 0
    assert found(copy, "constant behavior channels").found == "one value in all 20 trials: running_speed (3)"


def test_stds_that_cannot_scale_are_named(copy):
    np.save(copy / "meta/statistics/behavior/all/std.npy", np.array([0, 1, np.nan]))
    windows = Windows(open_recording(copy), "train", processor=OmniMouseProcessor(profile="published"))
    assert torch.isfinite(windows.batch(range(len(windows)))["behavior"]).all()
    mean = np.load(copy / "meta/statistics/behavior/all/mean.npy")
    finding = found(copy, "means and stds of behavior")
    assert finding.found == f"pupil_size {mean[0]:g} and 0, running_speed nan and nan"


def test_withheld_tiers_have_windows_for_predictions_only(folder):
    recording = open_recording(folder)
    with pytest.raises(ValueError, match=r"tier 'final_test' are withheld .*'test', 'train', 'validation'$"):
        Windows(recording, "final_test")
    windows = Windows(recording, "final_test", allow_withheld=True)
    batch = windows.batch(range(len(windows)))
    assert len(windows) == 2 and torch.isnan(batch["responses"]).all()
    assert torch.isfinite(batch["video"]).all() and torch.isfinite(batch["behavior"]).all()
    finding = next(finding for finding in recording.findings if "final_test" in finding.field)
    assert (finding.severity, finding.found) == ("warning", "zeros in all 2 trials: withheld")


def test_public_test_responses_are_used_and_missing_files_are_withheld(tmp_path, copy):
    assert open_recording(write_static(tmp_path / "public" / NAME, withhold=())).withheld_tiers == ()
    for trial in trials_of("final_test"):
        (copy / f"data/responses/{trial}.npy").unlink()
    assert open_recording(copy).withheld_tiers == ("final_test",)
    (copy / "data/responses/1.npy").unlink()
    assert "data/responses: files: expected 0.npy to 19.npy" in fatal(copy) and "1 missing (1)" in fatal(copy)


def test_silent_first_neurons_and_single_silent_trials_are_not_taken_for_withheld(copy):
    # More neurons than opening reads of each trial; in the tests only the last one responds.
    for trial, tier in enumerate(TIERS):
        response = np.zeros(100)
        response[-1 if tier != "train" else 0] = 1 + trial
        np.save(copy / f"data/responses/{trial}.npy", response if tier != "final_test" else np.zeros(100))
    shutil.rmtree(copy / "meta/statistics/responses")
    np.save(copy / "meta/neurons/unit_ids.npy", np.arange(100))
    assert open_recording(copy).withheld_tiers == ("final_test",)
    change(copy, "responses", np.zeros_like, [4])
    finding = found(copy, "silent trials")
    assert (finding.severity, finding.path[-20:]) == ("warning", "data/responses/4.npy")


def test_recordings_are_pickled_without_open_files(folder):
    windows = Windows(open_recording(folder), "train")
    windows[0]
    again = pickle.loads(pickle.dumps(windows))
    assert not again.recording.responses.clips._open
    assert all(torch.equal(again[3][name], values) for name, values in windows[3].items())


def test_single_images_are_saved_as_a_session_folder_and_not_as_tables(folder, tmp_path):
    recording = open_recording(folder)
    with pytest.raises(ValueError, match="single images cannot be written as tables; save_recording"):
        recording.to_dataset(tmp_path / "tables")
    assert not (tmp_path / "tables").exists()
    ours, theirs = Windows(recording, "train"), Windows(save_recording(recording, tmp_path / "saved"), "train")
    assert len(ours) == len(theirs) > 3
    for mine, saved in zip(ours, theirs, strict=True):
        assert all(torch.equal(mine[name], saved[name]) for name in mine)


def test_the_shipped_core_is_finetuned_scored_and_asked(folder, tmp_path):
    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    recording = open_recording(folder)
    settings = {"steps": 2, "batch_size": 2, "cpu": True, "num_workers": 1, "max_validation_windows": 2}
    masks = ["stimulus", "stimulus+behavior"]
    result = finetune(model, recording, masks=masks, output_dir=tmp_path / "run", progress=False, **settings)
    assert result.session == KEY and np.isfinite(result.best_validation_loss)
    scores = evaluate(model, folder, tasks="stimulus", tier="test", max_windows=3, progress=False)
    assert scores["stimulus"].n_windows == 3
    predicted = predict(model, recording, "stimulus", tier="test", stride=1, max_windows=2, progress=False)
    np.testing.assert_allclose(
        predicted.targets[:, 7] * recording.responses.stds,
        [stored(folder, "responses", trial) for trial in trials_of("test")[:2]],
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="responses of tier 'final_test' are withheld"):
        evaluate(model, recording, tier="final_test", progress=False)


def test_training_on_masks_that_show_held_responses_is_warned_about(folder):
    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    settings = {"steps": 1, "batch_size": 1, "cpu": True, "num_workers": 1, "validation_tier": None, "progress": False}
    with pytest.warns(UserWarning, match=r"masks show responses, which can then be copied.*masks=\['stimulus'"):
        finetune(model, open_recording(folder), **settings)


def test_recipes_find_it_and_the_command_describes_it(folder):
    found = find_sessions(RecordingsRecipe(paths=(str(folder.parent / "static*"),), tiers=("train",)))
    assert {key: info.path for key, info in found.items()} == {KEY: folder}
    with pytest.raises(ValueError, match="is a recording and no model"):
        OmniMouseModel.from_pretrained(folder)
    described = describe_path(folder)
    assert described["tiers"]["test"] == {"trials": 8, "seconds": 16.0, "conditions": 3, "windows": 8}
    assert described["tiers"]["final_test"]["windows"] is None
    assert "20 image" in to_text(described)


def test_a_sound_folder_has_no_more_than_a_warning_of_what_is_withheld(folder):
    assert [finding.severity for finding in check_recording(folder)] == ["warning", "info"]


@pytest.mark.parametrize(
    ("kind", "function", "trials", "texts"),
    [
        ("images", lambda a: a[0], [2], ("2.npy: shape of images: expected (1, 144, 256), found (144, 256)",)),
        ("images", lambda a: a[:, :36], [2], ("expected (1, 144, 256), found (1, 36, 256)",)),
        ("images", lambda a: a.repeat(3, axis=0), range(20), ("found (3, 144, 256) (and 19 more", "one grey image")),
        ("responses", lambda a: a[:5], [6], ("6.npy: shape of responses: expected (7,), found (5,)",)),
        ("responses", lambda a: a[:, None], range(20), ("shape of responses: expected", "(7, 1)")),
        ("responses", lambda a: a[:5], range(20), ("unit_ids.npy: length: expected 5", "found 7")),
        ("behavior", lambda a: a[:2], [3], ("3.npy: shape of behavior: expected (3,), found (2,)",)),
        ("pupil_center", lambda a: a[:1], [3], ("shape of pupil_center: expected (2,), found (1,)",)),
        ("behavior", lambda a: a.astype("U8"), [3], ("dtype",)),
    ],
)
def test_wrong_shapes(copy, kind, function, trials, texts):
    change(copy, kind, function, trials)
    found = fatal(copy)
    assert all(text in found for text in texts), found


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (lambda root: (root / "meta/trials/tiers.npy").unlink(), ("tiers.npy", "no such file")),
        (lambda root: np.save(root / "meta/trials/tiers.npy", np.array(TIERS[:18])), ("0.npy to 17.npy", "(18, 19)")),
        (lambda root: np.save(root / "meta/trials/tiers.npy", np.array([*TIERS, "test"])), ("1 missing (20)",)),
        (lambda root: (root / "data/images/4.npy").unlink(), ("data/images: files", "1 missing (4)")),
        (lambda root: (root / "data/behavior/9.npy").rename(root / "data/behavior/30.npy"), ("(9)", "too many (30)")),
        (lambda root: shutil.rmtree(root / "data/pupil_center"), ("data/pupil_center: folder",)),
        (lambda root: (root / "data/images/4.npy").write_bytes(b"\x93NUMPY"), ("4.npy: file", "do not load")),
        (lambda root: np.save(root / "meta/neurons/unit_ids.npy", np.arange(5)), ("unit_ids.npy: length",)),
        (
            lambda root: np.save(root / "meta/statistics/responses/all/std.npy", np.ones(5)),
            ("statistics/responses/all/std.npy: length: expected 7, one per signal, found (5,)",),
        ),
        (
            lambda root: np.save(root / "meta/statistics/behavior/all/mean.npy", np.ones(2)),
            ("statistics/behavior/all/mean.npy: length: expected 3",),
        ),
        (
            lambda root: [np.save(file, np.zeros(NEURONS)) for file in (root / "data/responses").iterdir()],
            ("responses: expected recorded activity, found none in any tier",),
        ),
    ],
)  # fmt: skip
def test_missing_and_foreign_files(copy, damage, texts):
    damage(copy)
    found = fatal(copy)
    assert all(text in found for text in texts), found


@pytest.mark.parametrize(
    ("damage", "field", "severity", "path", "text"),
    [
        (
            lambda root: np.save(root / "meta/trials/trial_idx.npy", np.arange(19)),
            "trial_idx", "warning", "meta/trials/trial_idx.npy", "20 numbers or hashes, one per trial, found 19",
        ),
        (
            lambda root: np.save(root / "meta/trials/trial_idx.npy", np.zeros(20, dtype=int)),
            "trial_idx", "warning", "meta/trials/trial_idx.npy", "found 19 duplicates",
        ),
        (
            lambda root: np.save(root / "meta/trials/frame_image_id.npy", np.arange(21)),
            "frame_image_id", "warning", "meta/trials/frame_image_id.npy", "one per trial, found 21",
        ),
        (
            lambda root: (root / "meta/trials/frame_image_id.npy").unlink(),
            "frame_image_id", "warning", "meta/trials/frame_image_id.npy", "found no such file",
        ),
        (
            lambda root: change(root, "images", lambda array: array / 255, range(20)),
            "value range", "warning", "data/images", "expected grey levels from 0 to 255, found at most 1",
        ),
        (
            lambda root: change(root, "images", lambda array: array - 20, [3, 5]),
            "grey levels", "warning", "data/images/3.npy", "found -20 to 235 (and 1 more files like it)",
        ),
        (
            lambda root: change(root, "images", lambda array: np.where(array < 64, np.nan, array), [3]),
            "pixels", "warning", "data/images/3.npy", "NaN or infinite in the image",
        ),
        (
            lambda root: change(root, "responses", lambda array: array * ([np.nan] + [1.0] * 6), [1, 4]),
            "NaN values", "warning", "data/responses", "found 1 of 7 signals, up to 11.11% (signal 0)",
        ),
        (
            lambda root: np.save(root / "meta/neurons/unit_ids.npy", np.ones(NEURONS)),
            "unit_ids", "warning", "meta/neurons/unit_ids.npy", "found 6 duplicates",
        ),
        (
            lambda root: [np.save(file, np.load(file)[:, :128]) for file in (root / "data/images").iterdir()],
            "image size", "fatal", "data/images", "expected a whole multiple of 36 x 64, such as 144 x 256 pixels, "
            "found 128 x 256",
        ),
        (
            lambda root: [np.save(file, np.load(file).transpose(0, 2, 1)) for file in (root / "data/images").iterdir()],
            "image size", "fatal", "data/images", "found 256 x 144, height and width swapped",
        ),
    ],
)  # fmt: skip
def test_faults_that_the_check_names(copy, damage, field, severity, path, text):
    damage(copy)
    finding = found(copy, field)
    assert finding.severity == severity and finding.path == str(copy / path)
    assert text in str(finding), str(finding)


def test_images_that_cannot_be_reduced_are_refused_when_read(copy):
    change(copy, "images", lambda array: array[:, :140], range(20))
    windows = Windows(open_recording(copy), "train")
    with pytest.raises(ValueError, match=r"images/1\.npy: 140 x 256 pixels, which is no whole multiple of 36 x 64"):
        windows[0]
    half = OmniMouseProcessor(frame_height=35, frame_width=64)
    assert Windows(open_recording(copy), "train", processor=half)[0]["video"].shape == (1, 60, 35, 64)


def test_small_images_are_shown_as_they_are(copy):
    change(copy, "images", lambda array: array[:, ::4, ::4], range(20))
    video = Windows(open_recording(copy), "train", processor=OmniMouseProcessor())[0]["video"]
    np.testing.assert_allclose(video[0, 9] * 59 + 113, image(IMAGES[1])[0, ::4, ::4], atol=1e-4)


def test_hashed_and_float_ids(copy):
    hashes = np.array([f"{trial * 7919:032x}" for trial in range(20)])
    np.save(copy / "meta/trials/trial_idx.npy", hashes)
    np.save(copy / "meta/trials/frame_image_id.npy", np.array(IMAGES, dtype=float))
    trial = open_recording(copy).trials[3]
    assert (trial.trial_id, trial.condition_hash) == (hashes[3], "101")


def test_a_renamed_folder_goes_by_its_name(copy, tmp_path):
    recording = open_recording(copy.rename(tmp_path / "mine"))
    assert (recording.session_key, recording.findings[0].field) == ("mine", "folder name")


def test_a_zip_is_unpacked_into_the_cache(folder, tmp_path, monkeypatch, tree_hash):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / f"{NAME}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            opened.write(file, f"{NAME}/{file.relative_to(folder).as_posix()}")
        opened.writestr(f"__MACOSX/{NAME}/data/images/._0.npy", b"resource fork")
    recording = open_recording(archive)
    assert (recording.path, recording.session_key, is_static(recording)) == (archive, KEY, True)
    ours, theirs = (Windows(open_recording(place), "test").batch([0, 4]) for place in (archive, folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (unpacked,) = (tmp_path / "cache").rglob(NAME)
    assert tree_hash(unpacked) == tree_hash(folder)
    assert [finding.severity for finding in recording.validate()] == ["warning", "info"]
