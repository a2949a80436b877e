"""The same stimulus in training and in a scored tier is found, in every form of a recording."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from static_folders import NAME, trials_of, write_static

from omnimouse import OmniMouseProcessor, open_recording, recording_from_arrays, save_recording
from omnimouse.recordings import check_recording
from omnimouse.recordings.checks import check_repeats

RESPONSES = np.random.default_rng(0).gamma(1.0, 1.0, (900, 3)).astype(np.float32)
MOVIE = np.random.default_rng(1).integers(0, 256, (600, 36, 64), dtype=np.uint8)
TRIALS = [(10.0 * i, 10.0 * i + 10, "train" if i % 2 else "final_test") for i in range(6)]
RATES = {"responses": 15.0, "video": 10.0}


def repeats(findings):
    """(severity, field, found) of what is said about stimuli of several tiers."""
    return [(each.severity, each.field, each.found) for each in findings if each.field.startswith("stimuli of tier")]


def in_every_form(recording, folder):
    """What is said about a recording over arrays, saved as a folder, and as tables."""
    saved = save_recording(recording, folder / "saved")
    saved.to_dataset(folder / "tables")
    tables = open_recording(folder / "tables")
    return [repeats(each.validate()) for each in (recording, saved, tables)]


def test_a_clip_of_both_tiers_is_found_by_its_frames(tmp_path):
    movie = MOVIE.copy()
    movie[203:300] = MOVIE[103:200]  # trial 2 shows what trial 1 shows
    for found in in_every_form(recording_from_arrays(RESPONSES, RATES, video=movie, trials=TRIALS), tmp_path):
        ((severity, field, text),) = found
        assert (severity, field) == ("warning", "stimuli of tier 'final_test'")
        assert "1 of 3 trials" in text and "00002 and 00001" in text


def test_a_movie_that_loops_is_found_wherever_blocks_begin():
    index = np.arange(600) % 70
    recording = recording_from_arrays(RESPONSES, RATES, video=MOVIE[:70], video_index=index, block_seconds=7.3)
    found = repeats(recording.validate())
    assert [field for _, field, _ in found] == ["stimuli of tier 'validation'", "stimuli of tier 'final_test'"]


def test_only_the_first_frames_of_long_recordings_are_read_and_then_all_of_what_looks_alike(monkeypatch):
    monkeypatch.setattr(check_repeats, "MOST_FRAMES", 120)
    movie = MOVIE.copy()
    movie[200:300] = MOVIE[100:200]
    movie[400:430] = MOVIE[300:330]  # the same beginning of another clip
    recording = recording_from_arrays(RESPONSES, RATES, video=movie, trials=TRIALS)
    ((_, _, text),) = repeats(recording.validate())
    assert "1 of 3 trials" in text and "00002 and 00001" in text


def test_blanks_and_distinct_stimuli_are_no_repeats(tmp_path):
    grey = MOVIE.copy()
    grey[::2] = 128
    for number, movie in enumerate((MOVIE, grey, np.full_like(MOVIE, 128))):
        recording = recording_from_arrays(RESPONSES, RATES, video=movie, trials=TRIALS)
        assert in_every_form(recording, tmp_path / f"{number}") == [[], [], []]


def test_conditions_say_it_where_there_are_any(tmp_path):
    named = [(*trial, "abc" if i in (1, 4) else f"c{i}") for i, trial in enumerate(TRIALS)]
    for found in in_every_form(recording_from_arrays(RESPONSES, 15.0, trials=named), tmp_path):
        ((severity, _, text),) = found
        assert severity == "warning" and "condition 'abc'" in text and "00004 and 00001" in text


def test_frames_that_differ_make_it_a_remark(write_session):
    folder = write_session()
    for name in ("00001", "00008"):  # train, final_test
        file = folder / f"screen/meta/{name}.yml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "condition_hash": "same"}))
    assert [severity for severity, *_ in repeats(check_recording(folder))] == ["warning"], "blanks cannot differ"
    rng = np.random.default_rng(2)
    for name in ("00001", "00008"):
        np.save(folder / f"screen/data/{name}.npy", rng.integers(0, 256, (120, 36, 64), dtype=np.uint8))
    ((severity, _, text),) = repeats(check_recording(folder))
    assert severity == "info" and "whose frames differ" in text


@pytest.mark.parametrize("named", [True, False])
def test_images_of_2022_are_compared_too(tmp_path, named):
    folder = write_static(tmp_path / NAME)
    assert not repeats(check_recording(folder))
    source, target = trials_of("train")[0], trials_of("test")[0]
    if named:
        ids = np.load(folder / "meta/trials/frame_image_id.npy")
        ids[target] = ids[source]
        np.save(folder / "meta/trials/frame_image_id.npy", ids)
    else:
        (folder / "meta/trials/frame_image_id.npy").unlink()
    np.save(folder / f"data/images/{target}.npy", np.load(folder / f"data/images/{source}.npy"))
    ((severity, field, text),) = repeats(check_recording(folder, processor=OmniMouseProcessor()))
    assert (severity, field) == ("warning", "stimuli of tier 'test'") and "1 of 8 trials" in text
