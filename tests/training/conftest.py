"""A model that trains in milliseconds, and one thread for all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def killed_run():
    """The module `killed_run.py`, which is also a script."""
    spec = importlib.util.spec_from_file_location("killed_run", Path(__file__).with_name("killed_run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
