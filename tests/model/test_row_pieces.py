"""Attention over rows in pieces gives what attention over all rows gives, in memory that budgets bound."""

import pytest
import torch
from small_models import SMALLEST, build

from omnimouse import TASKS, TRAINING_MASKS, OmniMouseConfig, OmniMouseModel
from omnimouse.model.kernels import row_pieces
from omnimouse.model.kernels.attention_groups import Groups

KEY, NEURONS = "a-1-1", 40


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    model.add_session(KEY, n_neurons=NEURONS, animal_id="a")
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "responses": torch.rand(2, 60, NEURONS, generator=generator),
        "video": torch.randn(2, 1, 60, 36, 64, generator=generator),
        "behavior": torch.randn(2, 5, 40, generator=generator),
    }


def answers(model, batch, mask):
    with torch.inference_mode():
        out = model(KEY, **batch, mask=mask, all_neurons=True)
    return {name: out[name] for name in ("response_predictions", "behavior_predictions") if name in out}


def test_all_masks_of_the_release_in_pieces(model, batch, monkeypatch):
    masks = [mask for mask in TRAINING_MASKS if serves(mask, model.config)]
    whole = [answers(model, batch, mask) for mask in masks]
    monkeypatch.setattr(row_pieces, "WORKING_BYTES", {"cpu": 50_000})  # some seven rows of a batch of two
    calls = []
    within = Groups.within
    monkeypatch.setattr(Groups, "within", lambda *given: calls.append(1) or within(*given))
    for mask, expected in zip(masks, whole, strict=True):
        found = answers(model, batch, mask)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert len(masks) > 80 and len(calls) > 10 * len(masks)


def serves(mask, config):
    try:
        mask.resolve(NEURONS, config)
    except ValueError:
        return False
    return True


def test_rows_are_not_cut_where_gradients_are_wanted(monkeypatch):
    monkeypatch.setattr(row_pieces, "WORKING_BYTES", {"cpu": 1})
    asked = []

    def compute(start, stop):
        asked.append((start, stop))
        return (torch.arange(start, stop)[None],)

    place = torch.device("cpu")
    (whole,) = row_pieces.in_pieces(compute, 5, 1, 1, place)
    with torch.no_grad():
        (joined,) = row_pieces.in_pieces(compute, 5, 1, 1, place)
    assert asked == [(0, 5), *((row, row + 1) for row in range(5))]
    torch.testing.assert_close(whole, joined)


def test_windows_at_once_fall_with_the_neurons_that_a_task_reads(monkeypatch):
    config, place = build().config, torch.device("cpu")

    def windows(neurons, task="forecasting"):
        return row_pieces.windows_at_once(TASKS[task].resolve(neurons, config), config, place)

    assert windows(100) > windows(4000) > windows(16000) >= 1
    assert windows(4000, "stimulus") > windows(4000)
    monkeypatch.setattr(row_pieces, "WHOLE_BYTES", {"cpu": 1})
    assert windows(100) == 1
