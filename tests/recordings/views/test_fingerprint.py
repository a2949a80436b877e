"""The fingerprint of a recording: the same for a copy, another for other data, in every form of a recording."""

import shutil

import numpy as np
import pytest
from static_folders import write_static

from omnimouse.recordings import open_recording, recording_from_arrays, save_recording
from omnimouse.recordings.views.fingerprint import SAMPLES, fingerprint
from omnimouse.support.spreading import spread


def of(recording):
    return fingerprint(recording, height=36, width=64)


def changed(first, second):
    one, two = of(first), of(second)
    return {part for part in one if one[part] != two[part]}


def arrays(**other):
    rng = np.random.default_rng(0)
    given = {
        "responses": rng.gamma(1.0, 1.0, (600, 5)).astype("f4"),
        "video": rng.integers(0, 255, (1200, 36, 64), dtype=np.uint8),
        "behavior": {"running_speed": rng.normal(size=800)},
        "response_rate": 15.0,
        "behavior_rate": 20.0,
        "video_rate": 30.0,
        "key": "m-1-1",
    }
    return given | other


def made(**other):
    given = arrays(**other)
    behavior = given["behavior"]
    return recording_from_arrays(
        given["responses"],
        {"responses": given["response_rate"], "video": given["video_rate"], "running_speed": given["behavior_rate"]},
        video=given["video"],
        behavior=behavior,
        session_key=given["key"],
        trials=given.get("trials"),
    )


def test_a_copy_of_a_folder_is_the_same_recording(tmp_path):
    saved = save_recording(made(), tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    assert of(saved) == of(open_recording(tmp_path / "second")) == of(open_recording(tmp_path / "first"))
    assert of(made()) == of(made())


def test_each_part_says_what_changed():
    base, given = made(), arrays()
    assert changed(base, made(responses=given["responses"] * 2)) == {"responses"}
    assert changed(base, made(behavior={"running_speed": given["behavior"]["running_speed"] + 1})) == {"treadmill"}
    assert changed(base, made(video=given["video"][::-1])) == {"video"}
    assert changed(base, made(response_rate=14.9)) >= {"responses"}
    trials = [(0.0, 20.0, "train"), (20.0, 30.0, "validation"), (30.0, 39.0, "final_test")]
    others = [(0.0, 20.0, "train"), (20.0, 30.0, "final_test"), (30.0, 39.0, "validation")]
    assert changed(made(trials=trials), made(trials=others)) == {"trials"}
    assert of(made(video=None))["video"] == of(made(behavior={}))["treadmill"] == "not recorded"


def test_reading_is_bounded():
    class Counted(np.ndarray):
        rows = 0

        def __getitem__(self, part):
            found = super().__getitem__(part)
            if isinstance(part, slice):
                Counted.rows += len(found)
            return found

    recording = made(responses=np.tile(arrays()["responses"], (50, 1)))
    recording.responses._data = recording.responses.data.view(Counted)
    of(recording)
    assert 0 < Counted.rows <= SAMPLES


@pytest.mark.parametrize("total", [1, 2, 63, 64, 65, 100_000])
def test_samples_are_spread_from_the_first_to_the_last(total):
    rows = spread(total, SAMPLES)
    assert rows[0] == 0 and rows[-1] == total - 1 and len(rows) == min(total, SAMPLES)
    assert len(set(rows)) == len(rows)


def test_single_images_and_tables(tmp_path):
    folder = write_static(tmp_path / "static")
    recording = open_recording(folder)
    before = of(recording)
    assert of(open_recording(folder)) == before and "not recorded" not in before["video"]
    made().to_dataset(tmp_path / "tables")
    first, second = (open_recording(tmp_path / "tables", session="m-1-1") for _ in range(2))
    assert of(first) == of(second)
