"""The published mathematics: predictions, losses and gradients of 15 cases against stored reference numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnimouse import Mask, OmniMouseModel
from omnimouse.pretrained.published.published_names import ANIMAL, SESSION, our_name
from omnimouse.published import model_from_state_dict

DATA = Path(__file__).parents[1] / "data" / "reference"
CASES = json.loads((DATA / "cases.json").read_text())


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


@pytest.fixture(scope="module")
def model() -> OmniMouseModel:
    state_dict = load_file(DATA / "published_state_dict.safetensors")
    return model_from_state_dict(state_dict, CASES["hyperparameters"], CASES["sessions"])


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return load_file(DATA / "inputs.safetensors")


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    return load_file(DATA / "outputs.safetensors")


def run(model, inputs, case):
    key = case["session"]
    ids = {"all_neurons": True} if case["all_neurons"] else {"neuron_ids": inputs[f"{key}.neuron_ids"]}
    arrays = (inputs[f"{key}.{name}"] for name in ("responses", "video", "behavior"))
    return model(key, *arrays, mask=Mask(**case["mask"]), **ids)


def parameter(model: OmniMouseModel, name: str) -> torch.nn.Parameter:
    """The parameter of ours that a published name stands for."""
    if match := SESSION.match(name):
        table = model.sessions.table(match["key"])
        ours = {"_neuron_embeddings.weight": table.neuron_embedding, "_neuron_biases": table.neuron_bias}
        return ours.get(match["name"], table.session_embedding)
    if match := ANIMAL.match(name):
        key = next(key for key, spec in model.sessions.specs.items() if spec.animal_id == match["animal"])
        return model.sessions.animal(key)
    return dict(model.named_parameters())[our_name(name)]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_predictions_losses_and_gradients(model, inputs, outputs, case):
    name = case["name"]
    model.zero_grad()
    out = run(model, inputs, case)
    assert relative(out.loss, outputs[f"{name}.loss"]) < 1e-4
    for loss in ("response_loss", "behavior_loss"):
        if (expected := outputs.get(f"{name}.{loss}")) is not None:
            assert relative(getattr(out, loss), expected) < 1e-4
    if f"{name}.behavior_preds" in outputs:
        assert relative(out.behavior_predictions, outputs[f"{name}.behavior_preds"]) < 1e-4
    if f"{name}.response_preds" in outputs:
        check_responses(out, name, outputs)

    out.loss.backward()
    for published_name, expected in case["gradient_norms"].items():
        gradient = parameter(model, published_name).grad
        found = 0.0 if gradient is None else float(gradient.norm())
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-9), published_name
    for published_name in [key for key in outputs if key.startswith(f"{name}.grad.")]:
        expected = outputs[published_name]
        gradient = parameter(model, published_name.removeprefix(f"{name}.grad.")).grad
        assert relative(gradient.reshape(expected.shape), expected) < 1e-3


def check_responses(out, name, outputs):
    positions = outputs[f"{name}.response_positions"].long() - out.target_start
    neurons = outputs[f"{name}.response_neuron_ids"].long()
    assert int(out.target_mask.sum()) == positions.shape[1]
    assert torch.equal(torch.isnan(out.response_predictions).all(0), ~out.target_mask)
    for item, ids in enumerate(out.target_neuron_ids):
        column = {int(neuron): i for i, neuron in enumerate(ids)}
        columns = torch.tensor([column[int(neuron)] for neuron in neurons[item]])
        for found, expected, tolerance in (
            (out.response_predictions, "response_preds", 1e-4),
            (out.response_targets, "response_labels", 1e-12),
        ):
            assert relative(found[item, positions[item], columns], outputs[f"{name}.{expected}"][item]) < tolerance


def test_a_missing_and_a_misshapen_tensor_are_both_named():
    state_dict = load_file(DATA / "published_state_dict.safetensors")
    del state_dict["enc.attention.wo.weight"]
    state_dict["response_readout_proj.weight"] = torch.zeros(4, 64)
    with pytest.raises(ValueError, match=r"(?s)missing: enc\.attention\.wo\.weight.*misshapen: response_readout_proj"):
        model_from_state_dict(state_dict, CASES["hyperparameters"], CASES["sessions"])


def test_unsupported_hyperparameters_are_listed():
    state_dict = load_file(DATA / "published_state_dict.safetensors")
    hyperparameters = {**CASES["hyperparameters"], "use_qk_norm": False, "rope_base": 10000}
    with pytest.raises(ValueError, match=r"(?s)rope_base=10000.*use_qk_norm=False"):
        model_from_state_dict(state_dict, hyperparameters, CASES["sessions"])
