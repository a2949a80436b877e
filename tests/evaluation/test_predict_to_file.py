"""Predictions into a file that grows: the same numbers as in memory, whatever befalls the call in between."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnimouse.evaluation import Predictions, predict
from omnimouse.evaluation.predicting import prediction_store

SILENT = {"progress": False, "batch_size": 2}


@pytest.fixture
def every_batch(monkeypatch):
    """What was predicted is noted after every batch."""
    monkeypatch.setattr(prediction_store, "COMMIT_SECONDS", 0.0)


class Stopped(Exception):
    pass


def stopping(fakes, monkeypatch, after):
    """The model of the fakes fails at its call number `after`; returns the calls that there were."""
    calls, whole = [], fakes.Model.__call__

    def call(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == after:
            raise Stopped
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(fakes.Model, "__call__", call)
    return calls


def same(left: Predictions, right: Predictions) -> None:
    assert vars(left).keys() == vars(right).keys()
    for name, value in vars(left).items():
        np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)


@pytest.mark.parametrize("task", ["forecasting", "population", "behavior+stimulus"])
def test_the_file_holds_what_is_predicted_in_memory(fakes, tmp_path, task):
    def spoil(windows):
        for name in ("responses", "video"):
            windows.data[name][[0, 5]] = torch.nan

    fakes.spoil = spoil
    with pytest.warns(UserWarning, match="2 of 7 windows left out"):
        expected = predict(fakes.model, fakes.recording, task, **SILENT)
        returned = predict(fakes.model, fakes.recording, task, output=tmp_path / "out.npz", **SILENT)
    assert os.listdir(tmp_path) == ["out.npz"]
    same(returned, expected)
    same(Predictions.load(tmp_path / "out.npz"), expected)
    same(Predictions.load(expected.save(tmp_path / "saved.npz"), mapped=True), expected)


def test_arrays_of_a_mapped_file_can_be_changed_without_changing_it(fakes, tmp_path):
    result = predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "out.npz", **SILENT)
    before = result.predictions.copy()
    result.predictions[:] = 0
    np.testing.assert_array_equal(Predictions.load(tmp_path / "out.npz").predictions, before)


def test_a_call_goes_on_where_it_stopped(fakes, tmp_path, monkeypatch, every_batch):
    fakes.spoil = lambda windows: windows.data["responses"][1].fill_(torch.nan)
    with pytest.warns(UserWarning):
        predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "whole.npz", **SILENT)
    calls = stopping(fakes, monkeypatch, after=3)
    with pytest.raises(Stopped):
        predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "out.npz", **SILENT)
    partial = tmp_path / "out.npz.partial"
    assert sorted(os.listdir(partial)) == ["arrays.npz", "progress.json"]
    with (partial / "arrays.npz").open("r+b") as file:  # a batch that was torn
        file.seek(0, os.SEEK_END)
        file.write(b"torn")
    with pytest.warns(UserWarning, match="1 of 7 windows left out"):
        predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "out.npz", **SILENT)
    assert len(calls) == 3 + 2  # windows 0 to 3 were there
    assert sorted(os.listdir(tmp_path)) == ["out.npz", "whole.npz"]
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda fakes, call: call.update(task="forecasting+behavior"),
            r"task\.name: .forecasting. when they",
        ),
        (lambda fakes, call: call.update(batch_size=3), r"settings\.batch_size: 2 when they were begun, 3 now"),
        (lambda fakes, call: call.update(stride=7), "windows: "),
        (lambda fakes, call: setattr(fakes.Model, "core_hash", lambda self: "d1" * 32), "core_sha256: "),
    ],
)
def test_what_was_begun_otherwise_is_refused_unless_it_is_to_begin_anew(
    fakes, tmp_path, monkeypatch, every_batch, change, said
):
    call = {"task": "forecasting", "output": tmp_path / "out.npz", **SILENT}
    monkeypatch.setattr(fakes.Model, "core_hash", fakes.Model.core_hash)  # put back afterwards
    stopping(fakes, monkeypatch, after=2)
    with pytest.raises(Stopped):
        predict(fakes.model, fakes.recording, **call)
    change(fakes, call)
    with pytest.raises(ValueError, match=said) as error:
        predict(fakes.model, fakes.recording, **call)
    assert "resume=False (--no-resume)" in str(error.value)
    predict(fakes.model, fakes.recording, **call, resume=False)
    assert os.listdir(tmp_path) == ["out.npz"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda arrays, progress: os.truncate(arrays, 200), "shorter than the 2 windows"),
        (lambda arrays, progress: os.truncate(progress, 30), "cannot be read"),
        (lambda arrays, progress: change(progress, done=8), "8 windows done of 7"),
        (lambda arrays, progress: change(progress, rows=3), "2 windows done of 7, and 3 predicted"),
        (lambda arrays, progress: change(progress, done="2"), "'2' windows done"),
    ],
)
def test_what_is_damaged_is_refused_and_not_filled_with_zeros(fakes, tmp_path, monkeypatch, every_batch, spoil, said):
    call = {"task": "forecasting", "output": tmp_path / "out.npz", **SILENT}
    stopping(fakes, monkeypatch, after=2)
    with pytest.raises(Stopped):
        predict(fakes.model, fakes.recording, **call)
    partial = tmp_path / "out.npz.partial"
    spoil(partial / "arrays.npz", partial / "progress.json")
    with pytest.raises(ValueError, match=rf"out\.npz\.partial is damaged.*{said}.*Pass resume=False"):
        predict(fakes.model, fakes.recording, **call)
    predict(fakes.model, fakes.recording, **call, resume=False)
    assert os.listdir(tmp_path) == ["out.npz"]


def change(progress, **values):
    progress.write_text(json.dumps({**json.loads(progress.read_text()), **values}))


def test_a_file_where_predictions_should_grow_is_refused(fakes, tmp_path):
    (tmp_path / "out.npz.partial").write_text("mine")
    with pytest.raises(ValueError, match=r"out\.npz\.partial, where predictions grow, is a file; move it away"):
        predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "out.npz", **SILENT)
    assert (tmp_path / "out.npz.partial").read_text() == "mine"


def test_nothing_is_left_where_no_window_can_be_predicted(fakes, tmp_path, every_batch):
    fakes.spoil = lambda windows: windows.data["responses"].fill_(torch.nan)
    with pytest.raises(ValueError, match="7 of 7 windows left out"):
        predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "out.npz", **SILENT)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_what_was_predicted(fakes, tmp_path, monkeypatch, every_batch):
    write, written = prediction_store.GrowingNpz.write, []

    def fill(self, name, row, block):
        written.append(name)
        if row == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, row, block)

    monkeypatch.setattr(prediction_store.GrowingNpz, "write", fill)
    call = {"task": "forecasting", "output": tmp_path / "out.npz", **SILENT}
    with pytest.raises(OSError, match=r"out\.npz could not be written: No space left.*where the same call goes on"):
        predict(fakes.model, fakes.recording, **call)
    monkeypatch.setattr(prediction_store.GrowingNpz, "write", write)
    calls = stopping(fakes, monkeypatch, after=100)
    predict(fakes.model, fakes.recording, **call)
    assert len(calls) == 2


def test_room_is_asked_for_before_anything_is_predicted(fakes, tmp_path, monkeypatch):
    calls = stopping(fakes, monkeypatch, after=1)
    monkeypatch.setattr(prediction_store.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"takes 0\.00 GB, of which 0\.00 are there, and 0\.00 GB are free"):
        predict(fakes.model, fakes.recording, "forecasting", output=tmp_path / "out.npz", **SILENT)
    assert not calls and os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
import torch
from omnimouse import OmniMouseModel, OmniMouseConfig, open_recording, predict
from omnimouse.evaluation.predicting import prediction_store
from small_models import SMALLEST

torch.manual_seed(0)
recording = open_recording(sys.argv[1])
model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
model.add_session(recording)
prediction_store.COMMIT_SECONDS = 0.0
calls, most = 0, int(sys.argv[3])

def count(*_):
    global calls
    calls += 1
    if calls == most:
        os.kill(os.getpid(), signal.SIGKILL)

model.register_forward_hook(count)
predict(model, recording, "forecasting+stimulus", tier="train", output=sys.argv[2], batch_size=2, progress=False)
print(calls)
"""


def test_a_killed_process_leaves_what_makes_the_same_file(recording_path, tmp_path):
    def run(output, most):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(recording_path), str(output), str(most)]
        root = str(recording_path.parents[0])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": root}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    whole = run(tmp_path / "whole.npz", 0)
    assert whole.returncode == 0, whole.stderr
    assert run(tmp_path / "out.npz", 4).returncode == -signal.SIGKILL
    assert not (tmp_path / "out.npz").exists()
    resumed = run(tmp_path / "out.npz", 0)
    assert int(resumed.stdout) == int(whole.stdout) - 3, resumed.stderr
    assert sorted(os.listdir(tmp_path)) == ["out.npz", "whole.npz"]
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
