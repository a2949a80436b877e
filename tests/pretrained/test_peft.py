"""LoRA with peft: it trains beside a core that stays as it is, and every stored form says what it belongs to."""

import json
import sys

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from small_models import SMALL

from omnimouse import OmniMouseConfig, OmniMouseModel, evaluate, finetune, open_recording, simulate_recording
from omnimouse.pretrained.session_files import AdapterConfig

FUSION_STACK = r"fusion\.\d+\.(query_key_value|output|feed_forward\.(up|gate|down))"
QUICK = {"steps": 2, "batch_size": 2, "max_validation_windows": 2, "masks": ["stimulus"], "progress": False}


def build(seed=0):
    torch.manual_seed(seed)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL))
    model.add_session("a-1-1", n_neurons=9, animal_id="a")
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def add_lora(model, seed=0, **arguments):
    """A LoRA that changes predictions from the start, unlike one that peft initialises."""
    torch.manual_seed(seed)
    settings = {"r": 2, "lora_alpha": 4, "target_modules": FUSION_STACK, "init_lora_weights": False} | arguments
    return get_peft_model(model, LoraConfig(**settings)).eval()


def save_lora(lora, folder):
    lora.save_pretrained(folder, save_embedding_layers=False)  # else peft looks the core's config up on the Hub
    return folder


def predict(model, key="a-1-1", neurons=9):
    torch.manual_seed(5)
    responses, behavior = torch.rand(1, 60, neurons), torch.randn(1, 5, 40)
    with torch.no_grad():
        out = model(key, responses, behavior=behavior, mask="population+behavior", all_neurons=True)
    return out.response_predictions


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "mouse"
    simulate_recording(folder, seed=1, n_neurons=12, minutes=1.5)
    return open_recording(folder)


def test_a_lora_leaves_the_core_its_names_and_its_hash():
    model = build()
    before = model.core_hash(), list(model.core_state_dict()), model.num_core_parameters()
    lora = add_lora(model)
    trainable = [name for name, parameter in lora.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 2 * 5 * len(model.fusion)
    assert all(name.startswith("base_model.model.fusion.") and ".lora_" in name for name in trainable)
    assert (model.core_hash(), list(model.core_state_dict()), model.num_core_parameters()) == before
    assert [name for name, _ in model.core_named_parameters()] == [n for n, _ in build().core_named_parameters()]


def test_a_layer_that_peft_trains_as_a_whole_counts_as_added_too():
    model = build()
    before = model.core_hash()
    add_lora(model, modules_to_save=["response_readout"])
    assert model.core_hash() == before


def test_the_peft_model_and_the_model_in_it_predict_the_same():
    model = build()
    plain = predict(model)
    lora = add_lora(model)
    assert torch.equal(predict(lora), predict(model))
    assert not torch.allclose(predict(lora), plain, equal_nan=True)
    with lora.disable_adapter():
        # PyTorch multiplies in another order where weights are frozen, so this is not bit for bit.
        torch.testing.assert_close(predict(lora), plain)


@pytest.mark.parametrize("given", ["model", "peft model"])
def test_finetune_trains_the_lora_and_the_session_only(recording, given):
    model = build()
    lora = add_lora(model)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = finetune(
        lora if given == "peft model" else model,
        recording,
        train_core=True,
        core_learning_rate=1e-2,
        validation_tier=None,
        **QUICK,
    )
    assert set(result.history[0]["gradient_norm"]) == {"session", "core"}
    after = model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if ".lora_" in name}
    assert model.session_keys == ["a-1-1", recording.session_key]
    assert flags.items() <= {name: p.requires_grad for name, p in model.named_parameters()}.items()


def test_a_run_with_a_lora_goes_on_from_its_checkpoint_on_the_same_core_only(recording, tmp_path):
    def run(model, seed):
        lora = add_lora(model, seed=seed)
        result = finetune(lora, recording, train_core=True, output_dir=tmp_path, **QUICK)
        return result, {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}

    _, first = run(build(), seed=1)
    result, again = run(build(), seed=2)  # the LoRA starts anew in every process, from another seed
    assert result.resumed_from == 2
    assert all(torch.equal(first[name], again[name]) for name in first)
    with pytest.raises(ValueError, match="core_hash"):
        run(build(seed=1), seed=1)


def test_scores_with_a_lora_are_no_scores_of_the_core(recording):
    model = build()
    model.add_session(recording)
    settings = {"tasks": "stimulus", "max_windows": 1, "progress": False}
    assert evaluate(model, recording, **settings).core_sha256 == model.core_hash()
    lora = add_lora(model)
    assert evaluate(lora, recording, **settings).core_sha256 not in (None, model.core_hash())


def test_a_frozen_core_cannot_be_trained(recording):
    model = build().requires_grad_(False)
    with pytest.raises(ValueError, match=r"none of its parameters requires gradients.*requires_grad_\(True\)"):
        finetune(model, recording, train_core=True, **QUICK)
    assert model.session_keys == ["a-1-1"]


def test_lora_and_session_in_a_fresh_core_predict_the_same(tmp_path):
    build().save_pretrained(tmp_path / "core")
    model = OmniMouseModel.from_pretrained(tmp_path / "core", sessions="all")
    lora = add_lora(model)
    save_lora(lora, tmp_path / "lora")
    model.save_session("a-1-1", tmp_path / "session")
    assert AdapterConfig.read(tmp_path / "session").core_sha256 == build().core_hash()

    fresh = OmniMouseModel.from_pretrained(tmp_path / "core")
    again = PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    fresh.load_session(tmp_path / "session")
    assert torch.equal(predict(again), predict(lora))


def test_a_lora_folder_brings_its_core(tmp_path):
    build().save_pretrained(tmp_path / "core")
    lora = add_lora(OmniMouseModel.from_pretrained(tmp_path / "core", sessions="all"))
    loaded = OmniMouseModel.from_pretrained(save_lora(lora, tmp_path / "lora"), sessions="all").eval()
    assert torch.equal(predict(loaded), predict(lora))
    assert loaded.core_hash() == build().core_hash()
    content = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match=r"which core it belongs to.*PeftModel\.from_pretrained"):
        OmniMouseModel.from_pretrained(tmp_path / "lora")


def test_a_lora_folder_without_peft_says_what_to_install(tmp_path, monkeypatch):
    save_lora(add_lora(OmniMouseModel.from_pretrained("omnimouse-tiny")), tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'omnimouse\[peft\]'"):
        OmniMouseModel.from_pretrained(tmp_path)


def test_a_lora_names_a_packaged_core_by_its_name(tmp_path):
    lora = add_lora(OmniMouseModel.from_pretrained("omnimouse-tiny"))
    save_lora(lora, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "omnimouse-tiny"
    assert "src/" not in (tmp_path / "README.md").read_text()
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions=["core00-1-1"])
    assert loaded.session_keys == ["core00-1-1"]


def test_a_session_trained_with_a_lora_is_refused_without_it_and_the_other_way_round(tmp_path):
    model = build()
    model.save_session("a-1-1", tmp_path / "without")
    lora = add_lora(model)
    model.save_session("a-1-1", tmp_path / "with")
    save_lora(lora, tmp_path / "lora")

    core = build()
    core.remove_session("a-1-1")
    with pytest.raises(ValueError, match=r"trained with a LoRA.*this model lacks.*PeftModel.from_pretrained"):
        core.load_session(tmp_path / "with")
    assert core.load_session(tmp_path / "without") == "a-1-1"
    core.remove_session("a-1-1")
    PeftModel.from_pretrained(core, tmp_path / "lora")
    with pytest.raises(ValueError, match=r"no LoRA.*this model carries one"):
        core.load_session(tmp_path / "without")
    assert core.load_session(tmp_path / "with") == "a-1-1"
    core.remove_session("a-1-1")
    assert core.load_session(tmp_path / "without", force=True) == "a-1-1"
    other = build()
    other.remove_session("a-1-1")
    add_lora(other, seed=1)
    with pytest.raises(ValueError, match="another LoRA"):
        other.load_session(tmp_path / "with")


def test_a_session_adapter_opens_although_peft_claims_such_folders(tmp_path):
    build().save_pretrained(tmp_path / "core")
    model = OmniMouseModel.from_pretrained(tmp_path / "core", sessions="all")
    model.save_session("a-1-1", tmp_path / "session")
    loaded = OmniMouseModel.from_pretrained(tmp_path / "session")
    assert loaded.session_keys == ["a-1-1"]
    assert torch.equal(predict(loaded), predict(model))


def test_a_model_folder_takes_a_lora_only_merged(tmp_path):
    model = build()
    plain = model.core_hash()
    lora = add_lora(model)
    expected = predict(lora)
    with pytest.raises(ValueError, match=r"layers that peft added.*merge_and_unload\(\)\.save_pretrained"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    lora.merge_and_unload().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(build().core_state_dict())
    merged = OmniMouseModel.from_pretrained(tmp_path, sessions="all")
    torch.testing.assert_close(predict(merged), expected, equal_nan=True)
    assert merged.core_hash() != plain


@pytest.mark.parametrize("library", ["omnimouse", "omnimouse.modeling_omnimouse"])
def test_peft_finds_the_class_that_a_lora_names_whenever_it_was_written(tmp_path, library):
    model = build()
    model.save_pretrained(tmp_path / "core")
    folder = save_lora(add_lora(OmniMouseModel.from_pretrained(tmp_path / "core", sessions="all")), tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["auto_mapping"] == {"base_model_class": "OmniMouseModel", "parent_library": "omnimouse"}
    config["auto_mapping"]["parent_library"] = library
    (folder / "adapter_config.json").write_text(json.dumps(config))
    opened = AutoPeftModel.from_pretrained(folder, import_allowlist=[library])
    assert type(opened.get_base_model()) is OmniMouseModel
