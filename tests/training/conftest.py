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
