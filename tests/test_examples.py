"""The examples run, at toy size, and the shipped core is what its documentation says."""

import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from omnimouse import OmniMouseModel

ROOT = Path(__file__).parents[1]
CORE = Path(str(files("omnimouse"))) / "hub" / "cores" / "omnimouse-tiny"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_new_mouse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["new_mouse.py", "--steps", "2", "--minutes", "1.5", "--n-neurons", "12"])
    load("new_mouse").main()
    assert "stimulus+behavior" in capsys.readouterr().out
    assert (tmp_path / "my-mouse" / "adapter" / "adapter_model.safetensors").is_file()
    with np.load(tmp_path / "my-mouse" / "predictions.npz") as stored:
        assert stored["predictions"].shape[1:] == (30, 12)


def test_trainer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["trainer.py", "--steps", "2", "--minutes", "1.5", "--n-neurons", "12"])
    load("trainer").main()
    assert "validation loss" in capsys.readouterr().out
    assert (tmp_path / "my-mouse-trainer" / "adapter" / "adapter_model.safetensors").is_file()


def test_lora(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lora.py", "--steps", "2", "--minutes", "1.5", "--n-neurons", "12"])
    load("lora").main()
    printed = capsys.readouterr().out
    assert "trainable params: 36,864" in printed and "loaded again: largest difference 0\n" in printed
    folder = tmp_path / "my-mouse-lora"
    assert (folder / "lora" / "adapter_model.safetensors").is_file()
    merged, core = (OmniMouseModel.from_pretrained(name) for name in (folder / "model", "omnimouse-tiny"))
    assert merged.core_state_dict().keys() == core.core_state_dict().keys()


def test_train_tiny_core_stops_and_goes_on(tmp_path, monkeypatch):
    example = load("train_tiny_core")
    for name, value in {"N_MICE": 2, "N_NEURONS": 8, "MINUTES": 1.5, "BATCH": 1, "WARMUP_STEPS": 1}.items():
        monkeypatch.setattr(example, name, value)
    for steps in ("2", "4"):
        options = ["--steps", steps, "--anneal-steps", "1", "--every", "4"]
        monkeypatch.setattr(sys, "argv", ["train_tiny_core.py", "--work", str(tmp_path), *options])
        example.main()
        core = OmniMouseModel.from_pretrained(tmp_path / "omnimouse-tiny", sessions="all")
        assert core.session_keys == ["core00-1-1", "core01-1-1"]
        assert float(core.identity.initial.abs().max()) > 0
    assert len(list((tmp_path / "run" / "anneals").iterdir())) == 2


def test_train_tiny_core_goes_on_from_an_earlier_core(tmp_path):
    recipe = load("train_tiny_core").recipe(tmp_path, "omnimouse-tiny", 10, 5)
    assert recipe["model"] == {"start_from": "omnimouse-tiny"}
    weights = recipe["recordings"]["weights"]
    assert weights["*"] == 2 and weights["core00-1-1"] == 1


def test_pretrain(tmp_path, monkeypatch, capsys):
    """From the recipe in the script to an annealed core, and on from where it stopped."""
    monkeypatch.chdir(tmp_path)
    small = {
        "steps": 4,
        "batch_size": 1,
        "schedule.warmup_steps": 2,
        "evaluation.every": 4,
        "evaluation.max_windows": 1,
        "outputs.checkpoint_every": 2,
        "outputs.keep_every": 4,
        "outputs.log_every": 2,
        "outputs.trackers": "[]",
    }
    options = [option for name, value in small.items() for option in ("--set", f"{name}={value}")]
    options += ["--anneal-steps", "2", "--n-neurons", "8", "--minutes", "1.5"]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *options])
    example = load("pretrain")
    assert len(Path(example.__file__).read_text().splitlines()) < 120
    example.main()
    folder = Path("pretraining/run/anneals/step-00000004-1-sqrt-2/model")
    assert str(folder) in capsys.readouterr().out
    model = OmniMouseModel.from_pretrained(folder, sessions="all")
    assert model.session_keys == [f"mouse{i}-1-1" for i in range(4)]
    example.main()  # finished already: nothing is trained again
    assert OmniMouseModel.from_pretrained(folder).core_hash() == model.core_hash()


def test_the_shipped_core_loads_as_float32_and_is_small():
    assert sum(path.stat().st_size for path in CORE.rglob("*") if path.is_file()) <= 4 << 20
    model = OmniMouseModel.from_pretrained("OmniMouse_Tiny", sessions="all")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert len(model.session_keys) == 12 and model.processor.profile == "strict"
    card = (ROOT / "model_cards" / "omnimouse-tiny.md").read_text()
    assert f"{model.num_core_parameters():,} parameters" in card
