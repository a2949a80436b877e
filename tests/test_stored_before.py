"""What version 0.1.0 stored before its files were put in rooms opens as it did then, bit for bit.

`data/before_the_rooms.zip` was written then: two recordings, one of them in the `datasets` form too, a model with both
sessions, an adapter, a fine-tune and a pre-training stopped half-way, and in `expected.json` what they were.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from training.killed_run import small_model

from omnimouse import OmniMouseModel, OmniMouseProcessor, Windows, evaluate, finetune, open_recording, train

ARCHIVE = Path(__file__).parent / "data" / "before_the_rooms.zip"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected(stored):
    return json.loads((stored / "expected.json").read_text())


def digest(array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def losses(history: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in map(json.loads, history.read_text().splitlines())]


def test_a_model_has_the_same_tensors_under_the_same_names(stored, expected):
    model = OmniMouseModel.from_pretrained(stored / "model", sessions="all")
    assert {name: digest(tensor) for name, tensor in model.state_dict().items()} == expected["model"]


def test_a_model_saved_again_is_the_same_files(stored, tmp_path):
    OmniMouseModel.from_pretrained(stored / "model", sessions="all").save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors", "sessions/11-1-1.safetensors", "sessions/22-1-1.safetensors"):
        assert (tmp_path / name).read_bytes() == (stored / "model" / name).read_bytes(), name
    index = [json.loads((folder / "sessions" / "index.json").read_text()) for folder in (stored / "model", tmp_path)]
    assert index[0] == index[1]


def test_an_adapter_fits_its_core(stored, expected):
    model = OmniMouseModel.from_pretrained(stored / "model")
    model.load_session(stored / "adapter")
    tensors = {name: digest(tensor) for name, tensor in model.state_dict().items()}
    assert tensors == {name: expected["model"][name] for name in tensors}
    assert model.session_keys == ["11-1-1"]


@pytest.mark.parametrize("form", ["recordings/11-1-1", "dataset"])
def test_a_recording_has_the_same_windows(stored, expected, form):
    recording = open_recording(stored / form)
    for profile, then in expected["windows"].items():
        windows = Windows(recording, ["train", "final_test"], processor=OmniMouseProcessor(profile=profile))
        assert len(windows) == then["n"] and windows.starts.tolist()[:40] == then["starts"]
        middle = windows[len(windows) // 2]
        assert {name: digest(array) for name, array in middle.items()} == then["windows"]


def test_scores_are_what_they_were(stored, expected):
    model = OmniMouseModel.from_pretrained(stored / "model", sessions="all")
    recording = open_recording(stored / "recordings" / "11-1-1")
    scores = evaluate(model, recording, list(expected["scores"]), tier="final_test", device="cpu", progress=False)
    assert {name: task.score for name, task in scores.tasks.items()} == pytest.approx(expected["scores"], abs=1e-6)


def test_a_fine_tune_goes_on(stored, expected):
    recording = open_recording(stored / "recordings" / "11-1-1")
    steps = {"steps": 8, "batch_size": 2, "validate_every": 3, "checkpoint_every": 3, "max_validation_windows": 2}
    folder = stored / "finetuning"
    finetune(small_model(), recording, output_dir=folder, seed=5, cpu=True, progress=False, **steps)
    assert losses(folder / "history.jsonl") == [(step, pytest.approx(loss)) for step, loss in expected["finetuning"]]


def test_a_pre_training_goes_on(stored, expected):
    recipe = yaml.safe_load((stored / "recipe.yaml").read_text())
    recipe["recordings"]["paths"] = [str(stored / "recordings" / "*")]
    train({**recipe, "output": str(stored / "run")})
    assert losses(stored / "run" / "history.jsonl") == [(step, pytest.approx(loss)) for step, loss in expected["run"]]
