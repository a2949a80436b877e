"""What all tests share: a Hugging Face Hub of their own, and an Accelerate that remembers nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

# Last on the path, so that the folders of tests can hide no module.
sys.path.append(str(Path(__file__).parent))

from loopback_hub import LoopbackHub


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
