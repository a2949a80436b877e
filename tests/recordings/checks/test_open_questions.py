"""What `omnimouse check` prints about questions that no documentation answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from omnimouse.cli.main import main
from omnimouse.recordings import open_questions, open_recording
from omnimouse.recordings.checks.open_questions import question_lines


def test_answers_are_those_of_the_files(write_session, edit_yaml):
    folder = write_session(mem=True)
    edit_yaml(folder / "responses/meta.yml", phase_shift_per_signal=True)
    edit_yaml(folder / "treadmill/meta.yml", is_mem_mapped=None)
    np.save(folder / "responses/meta/phase_shifts.npy", np.linspace(0, 0.1, 5))
    eye = np.load(folder / "eye_tracker/data.npy")
    eye[:53, 3] = np.nan
    np.save(folder / "eye_tracker/data.npy", eye)
    answers = open_questions(open_recording(folder))
    assert json.loads(json.dumps(answers)) == answers
    assert answers["devices"]["responses"] == {
        "file": "data.mem", "dtype": "float32", "is_mem_mapped": True, "phase_shifts_s": [0.0, 0.1],
    }  # fmt: skip
    assert answers["devices"]["treadmill"]["is_mem_mapped"] is None
    column = answers["behavior"]["eye_tracker"][3]
    assert column["share_nan"] == pytest.approx(0.1)
    assert column["minimum"] == pytest.approx(np.nanmin(eye[:, 3]))
    assert column["percentile_99"] == pytest.approx(np.nanquantile(eye[:, 3], 0.99))
    assert answers["screen_start"]["seconds_after_responses"] == pytest.approx(-0.687, abs=1e-5)
    assert answers["screen_start"]["sample_phase"] == pytest.approx((-0.687 * 30) % 1, abs=1e-3)
    text = "\n".join(question_lines(answers))
    assert "responses: data.mem of float32, is_mem_mapped true, phase shifts 0 to 100 ms" in text
    assert "treadmill: data.npy of float64, is_mem_mapped absent, phase shifts none" in text


def velocities(eye):
    return np.stack([eye[:, 0], eye[:, 2], np.gradient(eye[:, 0]), np.gradient(eye[:, 2])], axis=1)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda eye: eye, "size, its derivative, x, y"),
        (velocities, "x, y, their derivatives"),
        (lambda eye: np.random.default_rng(0).permuted(eye, axis=0), "unknown"),
        (lambda eye: eye * 0, "unknown"),
        (lambda eye: eye * np.nan, "unknown"),
    ],
)
def test_what_the_columns_look_like(write_session, change, verdict):
    folder = write_session()
    eye = np.load(folder / "eye_tracker/data.npy")
    eye[:, 2] = np.cumsum(np.random.default_rng(1).standard_normal(len(eye)))
    np.save(folder / "eye_tracker/data.npy", change(eye))
    order = open_questions(open_recording(folder))["channel_order"]
    assert order["verdict"].startswith(verdict)


def test_the_command_prints_them(write_session, capsys, tmp_path):
    folder = write_session()
    picture = tmp_path / "picture.png"
    assert main(["check", str(folder), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "Open questions this recording answers" in out and f"Drawn in {picture}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["check", str(folder), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["open_questions"]
    assert answers == open_questions(open_recording(folder))
    (folder / "responses/meta.yml").write_text("")
    assert main(["check", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["open_questions"] is None
    assert main(["check", str(tmp_path / "nowhere"), "--plot", str(tmp_path / "none.png")]) == 1
    captured = capsys.readouterr()
    assert "cannot be drawn" in captured.err and "Check the path" in captured.out
    assert main(["check", str(folder), "--plot", str(folder / "picture.png")]) == 2
    assert "lies in the recording" in capsys.readouterr().err
