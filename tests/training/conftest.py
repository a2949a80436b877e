"""A simulated mouse and a model that trains in milliseconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from omnimouse.recordings import open_recording
from omnimouse.recordings.simulated import simulate_recording


@pytest.fixture(scope="session")
def killed_run():
    """The module `killed_run.py`, which is also a script."""
    spec = importlib.util.spec_from_file_location("killed_run", Path(__file__).with_name("killed_run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recording_path(tmp_path_factory):
    """Folder of a simulated mouse: 12 neurons, a minute and a half, all tiers."""
    folder = tmp_path_factory.mktemp("simulated") / "mouse"
    simulate_recording(folder, seed=1, n_neurons=12, minutes=1.5)
    return folder


@pytest.fixture
def recording(recording_path):
    return open_recording(recording_path)


@pytest.fixture
def model(killed_run):
    return killed_run.small_model()


@pytest.fixture(autouse=True)
def one_thread():
    """Sums do not depend on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Pre-training: five sessions of three animals, sized so that two animals are shared by sessions on different processes.
CORPUS = {"m1": (12, "a"), "m2": (11, "b"), "m3": (10, "a"), "m4": (9, "b"), "m5": (8, "c")}

SMALL_OVERRIDES = {
    "hidden_size": 32,
    "identity_size": 8,
    "num_attention_heads": 2,
    "num_latents": 4,
    "num_registers": 2,
    "video_hidden_size": 16,
    "video_num_heads": 1,
    "video_depths": [1, 1],
    "video_drop_path_rate": 0.5,
    "max_population": 10,
}


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    """Folder of five simulated mice."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, (name, (n_neurons, animal)) in enumerate(CORPUS.items(), 1):
        simulate_recording(folder / name, seed=i, n_neurons=n_neurons, minutes=1.5, animal=animal, session=i)
    return folder


@pytest.fixture(scope="session")
def small_recipe(corpus_path):
    """Makes recipes of small runs as plain values: `small_recipe(output, steps=4, batch_size=1)`."""

    def make(output, **fields):
        return {
            "output": str(output),
            "recordings": {"paths": [str(corpus_path / "m*")]},
            "steps": 6,
            "batch_size": 1,
            "seed": 3,
            "model": {"preset": "tiny", "overrides": SMALL_OVERRIDES},
            "schedule": {"warmup_steps": 2},
            "evaluation": {"every": None},
            "outputs": {"checkpoint_every": 3, "keep_every": None, "log_every": 2, "trackers": []},
            "mixed_precision": "no",
            "cpu": True,
            **fields,
        }

    return make
