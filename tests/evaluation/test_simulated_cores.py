"""A core that has seen no real neuron says so, once, on recordings that are not simulated."""

from __future__ import annotations

import logging

import pytest
import torch

from omnimouse import OmniMouseModel, open_recording, recording_from_arrays, simulate_recording
from omnimouse.evaluation import simulated_cores
from omnimouse.evaluation.inputs import prepare_inputs
from omnimouse.evaluation.simulated_cores import say_if_only_simulated


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(simulated_cores, "_said", set())


@pytest.fixture(scope="module")
def real():
    """Half a minute of a mouse that nobody simulated."""
    responses = torch.rand(900, 4, generator=torch.Generator().manual_seed(0)).numpy()
    return recording_from_arrays(responses, 30.0, session_key="mouse-1-1", animal_id="mouse")


@pytest.fixture
def tiny():
    return OmniMouseModel.from_pretrained("omnimouse-tiny")


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "omnimouse.evaluation.simulated_cores"]


def test_it_is_said_once_for_a_real_recording(tiny, real, caplog):
    tiny.add_session(real)
    for _ in range(2):
        prepare_inputs(tiny, real, None, stride=30, include_blanks=True, processor=None, session=None)
    (line,) = lines(caplog)
    assert "omnimouse-tiny" in line and "no real neuron" in line and "mouse-1-1" in line and "\n" not in line


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_core_is_known_by_its_weights_wherever_it_lies(dtype, tiny, real, tmp_path, caplog):
    tiny.save_pretrained(tmp_path / "copy")
    copy = OmniMouseModel.from_pretrained(tmp_path / "copy", dtype=dtype)
    say_if_only_simulated(copy, real)
    assert len(lines(caplog)) == 1
    simulated_cores._said.clear()
    with torch.no_grad():
        next(iter(copy.core_state_dict().values())).add_(1)
    say_if_only_simulated(copy, real)
    assert len(lines(caplog)) == 1, "once trained further it is another core"


def test_simulated_mice_are_what_it_was_made_for(tiny, tmp_path, caplog):
    simulate_recording(tmp_path / "named", 1, n_neurons=4, minutes=1, animal="demo")
    recording = simulate_recording(tmp_path / "mouse", 1, n_neurons=4, minutes=1)
    (tmp_path / "mouse.truth").rename(tmp_path / "elsewhere")
    caplog.set_level(logging.INFO)
    for one in (recording, open_recording(tmp_path / "named")):
        say_if_only_simulated(tiny, one)
    assert not lines(caplog)
