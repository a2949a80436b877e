"""`omnimouse train`, `anneal` and `info` of a run, in this process and under `accelerate launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import omnimouse
from omnimouse.cli.main import main


@pytest.fixture
def recipe(small_recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe(tmp_path / "run", steps=4)))
    return path


def run(capsys, *argv):
    capsys.readouterr()
    status = main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_train_anneal_and_info(recipe, tmp_path, capsys):
    status, out, err = run(capsys, "train", recipe, "--set", "outputs.keep_every=3", "--json")
    assert status == 0, err
    summary = json.loads(out)
    assert summary["steps"] == 4 and summary["processes"] == 1 and Path(summary["model"]).is_dir()
    assert "first steps: " in err
    folder = tmp_path / "run"

    status, out, _ = run(capsys, "info", folder, "--json")
    found = json.loads(out)
    assert status == 0 and found["kind"] == "training run" and found["finished"]
    assert (found["step"], found["last"], found["checkpoints"], found["sessions"]) == (4, 4, [3, 4], 5)
    assert found["recipe"]["outputs"]["keep_every"] == 3 and found["training"]["step"] == 4

    status, out, _ = run(capsys, "anneal", folder, "--at", "3", "4", "--steps", "2", "--shape", "inverse-sqrt")
    assert status == 0 and "step-00000004-inverse-sqrt-2/model after 6 steps" in out
    text = run(capsys, "info", folder)[1]
    assert "step 4 of 4 (finished)" in text and "kept for anneals: 3, 4" in text
    assert "anneal step-00000003-inverse-sqrt-2: finished" in text
    text = run(capsys, "info", folder / "anneals" / "step-00000003-inverse-sqrt-2")[1]
    assert f"forked from {folder} at step 3" in text and "step 5 of 5 (finished)" in text
    model = run(capsys, "info", folder / "model")[1]
    assert "5 sessions" in model


def test_info_of_a_run_that_stopped(recipe, tmp_path, capsys):
    status, _, err = run(capsys, "train", recipe, "--set", "loss_limit=0.01")
    assert status == 2 and "above loss_limit" in err
    text = run(capsys, "info", tmp_path / "run")[1]
    assert "step 0 of 4 (0 %)" in text and "failures/step-00000001-process-0.json" in text
    assert "checkpoints at steps none yet" in text and "model: not written yet" in text


def test_errors_are_one_message(recipe, tmp_path, capsys):
    status, _, err = run(capsys, "train", recipe, "--set", "step=3")
    assert status == 2 and "has no field step; it has output" in err and "Traceback" not in err
    status, _, err = run(capsys, "anneal", tmp_path / "run", "--at", "3")
    assert status == 2 and "cannot be read" in err


def test_accelerate_launch(recipe, tmp_path):
    """On CPUs too, it takes --multi_gpu to start more than one process: with --cpu it leaves that to MPI."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(omnimouse.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(tmp_path / "home"),  # no configuration of the machine's
    }
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "omnimouse", "train", str(recipe), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout[done.stdout.index("{") :])
    assert summary["processes"] == 2 and summary["steps"] == 4
