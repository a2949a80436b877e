"""What all tests share: a Hugging Face Hub of their own, and an Accelerate that remembers nothing, simulated mice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

# Last on the path, so that the folders of tests can hide no module.
sys.path.append(str(Path(__file__).parent))

from loopback_hub import LoopbackHub
from small_models import SMALL_OVERRIDES

from omnimouse.recordings import open_recording
from omnimouse.recordings.simulation.simulated import simulate_recording


@pytest.fixture
def loopback_hub(tmp_path):
    """A running hub without repositories; `hf_write` is the token of user `lab`, who owns `lab/...`."""
    with LoopbackHub(tmp_path / "loopback_hub") as hub:
        yield hub
        assert not hub.errors(), hub.errors()


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """Accelerate fixes its precision once per process; tests that ask for one leave none behind."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def recording_path(tmp_path_factory):
    """Folder of a simulated mouse: 12 neurons, a minute and a half, all tiers."""
    folder = tmp_path_factory.mktemp("simulated") / "mouse"
    simulate_recording(folder, seed=1, n_neurons=12, minutes=1.5)
    return folder


@pytest.fixture
def recording(recording_path):
    return open_recording(recording_path)


# Pre-training: five sessions of three animals, sized so that two animals are shared by sessions on different processes.
CORPUS = {"m1": (12, "a"), "m2": (11, "b"), "m3": (10, "a"), "m4": (9, "b"), "m5": (8, "c")}


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
