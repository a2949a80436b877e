"""The life of a run: several signals, two runs in one folder, a full disk, damaged state."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from omnimouse.support import files, outputs
from omnimouse.support.outputs import LOCK_FILE, sole_user
from omnimouse.support.tensor_files import write_tensors
from omnimouse.training import finetune as finetune_function
from omnimouse.training import train
from omnimouse.training.finetuning import finetune_checkpoint
from omnimouse.training.finetuning.finetune_checkpoint import newest_finetune_checkpoint
from omnimouse.training.runs.run_folder import read_history
from omnimouse.training.shared import checkpoint

QUICK = {"batch_size": 2, "masks": ["population"], "validation_tier": None, "cpu": True, "progress": False}
SLOW = {"steps": 10_000, "checkpoint_every": 10_000, **QUICK}

SCRIPT = """
import sys, json, importlib.util
spec = importlib.util.spec_from_file_location("killed_run", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from omnimouse.training.finetuning.finetune import finetune
finetune(module.small_model(), sys.argv[2], output_dir=sys.argv[3], **json.loads(sys.argv[4]))
"""


def start(killed_run, recording_path, output, settings=SLOW):
    arguments = [str(killed_run.__file__), str(recording_path), str(output), json.dumps(settings)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stderr=subprocess.PIPE, text=True)


def wait_for_steps(process, output):
    history = Path(output) / "history.jsonl"
    while not (history.exists() and history.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "numbers, code",
    [
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGINT, signal.SIGINT, signal.SIGINT), -signal.SIGINT),
        ((signal.SIGINT, signal.SIGTERM), -signal.SIGINT),
    ],
    ids=["SIGTERM twice", "Ctrl-C three times", "one of each"],
)
def test_several_signals_leave_a_checkpoint(killed_run, recording_path, tmp_path, numbers, code):
    process = start(killed_run, recording_path, tmp_path)
    wait_for_steps(process, tmp_path)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)
    error = process.communicate()[1]
    # A signal that comes when all is saved and finetune has left ends the process as it would any other.
    assert process.returncode in (code, -numbers[-1]), error
    found = newest_finetune_checkpoint(tmp_path)
    assert found is not None and found.state.step >= 1
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_second_run_in_the_folder_is_told_and_a_killed_one_does_not_block(killed_run, recording_path, tmp_path):
    process = start(killed_run, recording_path, tmp_path)
    wait_for_steps(process, tmp_path)
    with pytest.raises(ValueError, match=r"Another run is going on in .*stop it, or choose another output"):
        finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, steps=1, **QUICK)
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    result = finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, steps=1, **QUICK)
    assert result.best_step == 1 and not (tmp_path / LOCK_FILE).exists()


def test_train_tells_a_second_run_and_what_is_refused_leaves_nothing(small_recipe, tmp_path):
    with sole_user(tmp_path / "run"), pytest.raises(ValueError, match="Another run is going on"):
        train(small_recipe(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()
    with sole_user(tmp_path / "run"):
        pass
    with pytest.raises(ValueError, match="no window in"), sole_user(tmp_path / "run"):
        raise ValueError("no window in train")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_locks_is_said(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(outputs.FileLock, "acquire", fail)
    with pytest.warns(UserWarning, match=r"cannot be locked.*No locks available.*no other run"), sole_user(tmp_path):
        pass


# A full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_in_rust(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "where, name, fault",
    [(finetune_checkpoint, "save_file", full_in_rust), (checkpoint, "sync", full), (checkpoint.os, "fsync", full)],
)
def test_a_full_disk_leaves_the_checkpoint_before_and_the_same_call_goes_on(
    killed_run, recording_path, tmp_path, monkeypatch, where, name, fault
):
    settings = {"steps": 4, "checkpoint_every": 2, **QUICK}
    append = checkpoint.append_history

    def append_and_fill(path, row):
        append(path, row)
        if row["step"] == 3:
            monkeypatch.setattr(where, name, fault)

    monkeypatch.setattr("omnimouse.training.finetuning.loop.append_history", append_and_fill)
    with pytest.raises(OSError, match=r"checkpoint-00000004 could not be written: No space left.*Make room") as error:
        finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, **settings)
    assert error.value.errno == errno.ENOSPC and "[Errno" not in str(error.value)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000002", "history.jsonl"]
    result = finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, **settings)
    assert (result.resumed_from, result.best_step) == (2, 4)


def test_a_full_disk_during_a_pre_training(small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(
        tmp_path / "run", steps=2, outputs={"checkpoint_every": 1, "keep_every": None, "trackers": []}
    )

    def fill(path, tensors):
        if "checkpoint-00000002" in str(path):
            full()
        write_tensors(path, tensors)

    monkeypatch.setattr("omnimouse.training.runs.run_folder.write_tensors", fill)
    with pytest.raises(OSError, match=r"checkpoint-00000002 could not be written.*Make room"):
        train(recipe, progress=False)
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["checkpoint-00000001", "history.jsonl", "recipe.yaml"]
    assert train(recipe, progress=False).resumed_from == 1


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, call):
    files.write_text(tmp_path / "a.txt", "before")
    if call == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.txt could not be written: No space left.*still there, whole"):
        files.write_text(tmp_path / "a.txt", "after")
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "before"}


def test_files_are_on_the_disk_before_they_get_their_names(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("renamed"), replace(a, b))[1])
    files.write_text(tmp_path / "a.txt", "text")
    written, renamed, folder = events
    assert written.startswith(f"{tmp_path}/.a.txt.") and renamed == "renamed" and folder == str(tmp_path)
    events.clear()
    with files.staged_folders(tmp_path / "made") as (work, _):
        (work / "inner").mkdir()
        (work / "inner" / "x").write_text("x")
    assert any(event.endswith("/inner/x") for event in events[: events.index("renamed")]) and events[-1] == str(
        tmp_path
    )


# Damaged state


def damage_all(folder, how):
    for file in folder.glob("checkpoint-*/*"):
        if file.is_file():
            how(file)


@pytest.mark.parametrize(
    "how",
    [lambda file: file.unlink(), lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"{]\xff")],
    ids=["missing", "empty", "unreadable"],
)
def test_a_run_without_a_whole_checkpoint_is_not_begun_anew_without_a_word(killed_run, recording_path, tmp_path, how):
    settings = {"steps": 2, **QUICK}
    finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, **settings)
    damage_all(tmp_path, how)
    with pytest.raises(ValueError, match=r"No checkpoint in .* is whole \(.*checkpoint-00000002.*resume=False"):
        finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, **settings)
    assert (tmp_path / "checkpoint-00000002").is_dir()
    again = finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, resume=False, **settings)
    assert again.resumed_from is None


def test_a_pre_training_passes_over_a_damaged_checkpoint_or_refuses(small_recipe, tmp_path):
    outputs = {"checkpoint_every": 1, "keep_every": None, "keep_newest": 2, "trackers": [], "log_every": 1}
    recipe = small_recipe(tmp_path / "run", steps=3, outputs=outputs)
    train(recipe, progress=False)
    folder = tmp_path / "run"
    (folder / "checkpoint-00000003" / "core.safetensors").write_bytes(b"")
    history = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text(history[0] + "damaged\n" + "".join(history[1:]))
    with pytest.warns(UserWarning) as caught:
        result = train(recipe, progress=False)
    texts = " ".join(str(entry.message) for entry in caught)
    assert "Passing over a damaged checkpoint" in texts and "line 2 is damaged" in texts
    assert result.resumed_from == 2 and [row["step"] for row in read_history(folder / "history.jsonl")] == [1, 2, 3]
    for file in folder.glob("checkpoint-*/state.json"):
        file.write_text("")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match=r"No checkpoint in .* is whole"):
        train(recipe, progress=False)
