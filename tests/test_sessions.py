"""Sessions: adding, removing, and every stored form, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.sessions import inverse_softplus

SMALL = {"hidden_size": 32, "identity_size": 8, "num_attention_heads": 2, "video_hidden_size": 16}


def build(*sessions, seed=0):
    torch.manual_seed(seed)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL))
    for key, neurons, animal in sessions:
        model.add_session(key, n_neurons=neurons, animal_id=animal, unit_ids=np.arange(neurons))
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


THREE = (("b-1-1", 12, "b"), ("a-2-1", 10, "a"), ("a-1-1", 9, "a"))


def files(folder: Path):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def predict(model, key, neurons):
    torch.manual_seed(5)
    responses, behavior = torch.rand(1, 60, neurons), torch.randn(1, 5, 40)
    with torch.no_grad():
        return model(key, responses, behavior=behavior, mask="population+behavior", all_neurons=True)[
            "response_predictions"
        ]


def test_save_load_save_gives_identical_files(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path / "first")
    loaded = OmniMouseModel.from_pretrained(tmp_path / "first", sessions="all")
    loaded.save_pretrained(tmp_path / "second")
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert sorted(files(tmp_path / "first")) == [
        "README.md", "config.json", "model.safetensors", "sessions/a-1-1.safetensors", "sessions/a-2-1.safetensors",
        "sessions/b-1-1.safetensors", "sessions/index.json",
    ]  # fmt: skip
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "first").rglob("*") if path.is_file()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}
    loaded.save_pretrained(tmp_path / "first")  # over the folder it was loaded from
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_order_of_adding_does_not_matter():
    names = [[name for name, _ in build(*order).named_parameters()] for order in (THREE, THREE[::-1])]
    assert names[0] == names[1]
    assert build(*THREE).session_keys == ["a-1-1", "a-2-1", "b-1-1"]


def test_only_sessions_asked_for_are_loaded(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    assert OmniMouseModel.from_pretrained(tmp_path).session_keys == []
    assert OmniMouseModel.from_pretrained(tmp_path, sessions=["a-*"]).session_keys == ["a-1-1", "a-2-1"]
    assert AutoModel.from_pretrained(tmp_path, sessions=["b-1-1"]).session_keys == ["b-1-1"]
    with pytest.raises(ValueError, match=r"no session 'c-1-1'. It has: a-1-1, a-2-1, b-1-1"):
        OmniMouseModel.from_pretrained(tmp_path, sessions=["c-1-1"])
    (tmp_path / "sessions" / "b-1-1.safetensors").unlink()
    assert OmniMouseModel.from_pretrained(tmp_path, sessions=["a-1-1"]).session_keys == ["a-1-1"]
    with pytest.raises(ValueError, match="cannot be read"):
        OmniMouseModel.from_pretrained(tmp_path, sessions=["b-1-1"])


def test_saving_some_sessions_over_their_folder_loses_none(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    before = files(tmp_path)
    OmniMouseModel.from_pretrained(tmp_path, sessions=["a-1-1"]).save_pretrained(tmp_path)
    assert files(tmp_path) == before
    other = build(("z-1-1", 4, "z"), seed=1)
    with pytest.raises(ValueError, match=r"another core.*orphan"):
        other.save_pretrained(tmp_path)
    assert files(tmp_path) == before


def test_adapter_in_a_fresh_core_predicts_the_same(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path / "model")
    model.save_session("a-1-1", tmp_path / "adapter")
    assert sorted(files(tmp_path / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    fresh = OmniMouseModel.from_pretrained(tmp_path / "model")
    assert fresh.load_session(tmp_path / "adapter") == "a-1-1"
    assert torch.equal(predict(model, "a-1-1", 9), predict(fresh, "a-1-1", 9))
    fresh.save_session("a-1-1", tmp_path / "again")
    stored = [tmp_path / name / "adapter_model.safetensors" for name in ("adapter", "again")]
    assert stored[0].read_bytes() == stored[1].read_bytes()


def test_loaded_tensors_are_aligned_so_that_products_round_alike(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path)
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions="all")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_an_adapter_folder_brings_its_core(tmp_path):
    build().save_pretrained(tmp_path / "core")
    model = OmniMouseModel.from_pretrained(tmp_path / "core")
    model.add_session("new", n_neurons=5, animal_id="n")
    model.save_session("new", tmp_path / "adapter")
    loaded = OmniMouseModel.from_pretrained(tmp_path / "adapter")
    assert loaded.session_keys == ["new"] and loaded.core_hash() == model.core_hash()
    (tmp_path / "core").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"belongs to the core .*cannot be loaded.*load it and call"):
        OmniMouseModel.from_pretrained(tmp_path / "adapter")


def test_adapters_remember_their_core_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build(("b-1-1", 4, "b"))
    model.save_pretrained("core")
    model.save_session("b-1-1", "adapter")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert OmniMouseModel.from_pretrained(tmp_path / "adapter").session_keys == ["b-1-1"]


def test_adapters_of_other_cores_are_refused_unless_forced(tmp_path):
    build(*THREE).save_session("b-1-1", tmp_path)
    other = build(seed=1)
    with pytest.raises(ValueError, match=r"trained on another core.*force=True"):
        other.load_session(tmp_path)
    other.load_session(tmp_path, force=True)
    assert other.session_keys == ["b-1-1"]


def test_differing_animal_vectors_need_a_decision(tmp_path):
    model = build(*THREE)
    model.save_session("a-1-1", tmp_path)
    model.remove_session("a-1-1")
    trained = model.session_state("a-2-1")["animal_embedding"]
    with torch.no_grad():
        model.sessions.animal("a-2-1").add_(1)
    with pytest.raises(ValueError, match=r"'a-1-1'.*animal 'a'.*used by a-2-1.*on_animal_conflict"):
        model.load_session(tmp_path)
    kept = model.session_state("a-2-1")["animal_embedding"]
    model.load_session(tmp_path, on_animal_conflict="model")
    assert torch.equal(model.session_state("a-1-1")["animal_embedding"], kept)
    model.remove_session("a-1-1")
    model.load_session(tmp_path, on_animal_conflict="adapter")
    assert torch.equal(model.session_state("a-2-1")["animal_embedding"], trained)


def test_removing_the_last_session_of_an_animal_removes_its_vector():
    model = build(*THREE)
    model.remove_session("a-1-1")
    assert len(model.sessions.animals) == 2
    model.remove_session("a-2-1")
    assert len(model.sessions.animals) == 1 and model.session_keys == ["b-1-1"]
    with pytest.raises(ValueError, match=r"no session 'a-2-1'\. It has: b-1-1\."):
        model.remove_session("a-2-1")


def test_new_sessions_start_at_the_average_neuron_and_at_the_mean_response():
    model = build(*THREE)
    model.update_initial_vectors()
    means = torch.tensor([0.05, 0.5, 3.0])
    model.add_session("new-1-1", n_neurons=3, animal_id="new", mean_responses=means)
    state = model.session_state("new-1-1")
    everyone = torch.cat([model.session_state(key)["neuron_embedding"] for key, _, _ in THREE])
    torch.testing.assert_close(state["neuron_embedding"], everyone.mean(0).expand(3, -1))
    torch.testing.assert_close(torch.nn.functional.softplus(state["neuron_bias"], beta=0.1), means)
    model.add_session("a-3-1", n_neurons=2, animal_id="a")
    assert torch.equal(
        model.session_state("a-3-1")["animal_embedding"], model.session_state("a-1-1")["animal_embedding"]
    )


def test_inverse_softplus_is_the_inverse_and_finite_at_zero():
    x = torch.tensor([0.0, 1e-3, 0.1, 1.0, 50.0, 1000.0])
    y = inverse_softplus(x, 0.1)
    torch.testing.assert_close(torch.nn.functional.softplus(y, beta=0.1), x.double().clamp_min(1e-3))


@pytest.mark.parametrize("key", ["a.b", "type", "keys", "0", "a_b", "a__b", "gamma", "dynamic29515-10-12-Video-x_30hz"])
def test_awkward_keys_round_trip(key, tmp_path):
    model = build((key, 3, "training"))
    model.save_pretrained(tmp_path)
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions=[key])
    assert torch.equal(loaded.session_state(key)["neuron_embedding"], model.session_state(key)["neuron_embedding"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: m.add_session("x/y", n_neurons=2, animal_id="a"), "name a file"),
        (lambda m, p: m.add_session("x", n_neurons=0, animal_id="a"), "positive integer"),
        (lambda m, p: m.add_session("x"), "needs n_neurons and animal_id"),
        (lambda m, p: m.add_session("b-1-1", n_neurons=12, animal_id="b"), "already in the model"),
        (lambda m, p: m.add_session("x", n_neurons=2, animal_id="a", mean_responses=[1.0]), "2 finite numbers"),
        (lambda m, p: m.add_session("x", n_neurons=1, animal_id="a", mean_responses=[np.nan]), "finite"),
        (lambda m, p: m.load_session(p), "no session adapter: it has no adapter_config.json"),
        (lambda m, p: OmniMouseModel.from_pretrained(p), "no config.json"),
        (lambda m, p: OmniMouseModel.from_pretrained("omnimouse-90m"), "Known names: omnimouse-tiny"),
        (lambda m, p: OmniMouseModel.from_pretrained(p / "nowhere"), "no model folder"),
    ],
)
def test_mistakes_are_refused_with_a_message(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(build(*THREE), tmp_path)


def test_damaged_files_are_named(tmp_path):
    model = build(*THREE)
    model.save_session("b-1-1", tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    model.remove_session("b-1-1")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        model.load_session(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({k: v for k, v in content.items() if k != "animal_id"}))
    with pytest.raises(ValueError, match="lacks animal_id"):
        model.load_session(tmp_path / "adapter")


def test_saving_never_mixes_adapters_and_models(tmp_path):
    model = build(*THREE)
    model.save_session("b-1-1", tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds the adapter of session 'b-1-1'"):
        model.save_session("a-1-1", tmp_path / "adapter")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model"):
        model.save_session("a-1-1", tmp_path / "model")


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "sessions" / "index.json").read_text())
    index["b-1-1"]["file"] = "../elsewhere.safetensors"
    (tmp_path / "sessions" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside the model folder"):
        OmniMouseModel.from_pretrained(tmp_path, sessions="all")
