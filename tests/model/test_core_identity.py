"""A core is its tensors and what it computes with; adapters, scores and sessions of one are not those of another."""

import json
from dataclasses import replace

import pytest
import torch
from small_models import SMALL, THREE, build
from transformers import PreTrainedConfig

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.core_identity import CHANGES_NO_PREDICTION, core_settings
from omnimouse.pretrained.measured import MeasuredScore, read_scores, write_scores
from omnimouse.pretrained.session_files import AdapterConfig
from omnimouse.support.tensor_files import hash_tensors

OTHER = {
    "response_rate": 60,
    "behavior_channels": ["a", "b", "c", "d", "e"],
    "num_key_value_heads": 1,
    "video_depths": [1, 3],
    "video_patch_kernel": [6, 7, 8],
    "video_patch_stride": [2, 2, 3],
    "video_patch_padding": [2, 1, 4],
    "video_attention_layout": "published",
}
"""Other values of fields that are no plain numbers, or that go by another rule."""


def own_fields():
    inherited = PreTrainedConfig.__dataclass_fields__
    return [name for name in OmniMouseConfig.__dataclass_fields__ if name not in inherited]


def changed(config, name):
    """The configuration with another value of one field, whether it makes sense or not."""
    content = config.to_dict()
    return content | {name: OTHER[name] if name in OTHER else content[name] + 1}


@pytest.mark.parametrize("name", own_fields())
def test_every_field_counts_but_those_that_change_no_prediction(name):
    config = OmniMouseConfig.from_preset("tiny", **SMALL)
    assert (core_settings(changed(config, name)) == core_settings(config)) == (name in CHANGES_NO_PREDICTION)


def test_what_does_not_count_changes_no_prediction():
    def predictions(**fields):
        model = build(("a-1-1", 9, "a"))
        for name, value in fields.items():
            setattr(model.config, name, value)
        torch.manual_seed(1)
        inputs = torch.rand(1, 60, 9), torch.rand(1, 1, 60, 36, 64), torch.randn(1, 5, 40)
        with torch.no_grad():
            return model("a-1-1", *inputs, mask="population+stimulus", all_neurons=True).response_predictions

    others = {name: 1e-3 if isinstance(default, float) else 5 for name, default in vars_of(CHANGES_NO_PREDICTION)}
    assert set(others) == CHANGES_NO_PREDICTION
    torch.testing.assert_close(predictions(**others), predictions(), rtol=0, atol=0, equal_nan=True)


def vars_of(names):
    return [(name, OmniMouseConfig.__dataclass_fields__[name].default) for name in names]


def test_spellings_of_one_core_are_one_core(tmp_path):
    model = build()
    same = OmniMouseConfig.from_preset("tiny", **SMALL, num_key_value_heads=2, decoder_ffn_multiplier=4.0)
    assert core_settings(same) == core_settings(model.config)
    model.config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert core_settings(stored | {"dtype": "bfloat16", "transformers_version": "0", "_x": 1}) == core_settings(same)
    del stored["guard_samples"]  # as if a later version had added the field, at the value of what was computed before
    assert core_settings(stored) == core_settings(same)


def test_the_hash_of_a_core_knows_its_settings():
    model, other = build(), build()
    assert model.core_hash() == other.core_hash()
    other.config.softplus_beta = 3.0
    assert model.core_hash() != other.core_hash()
    other.config.softplus_beta, other.config.behavior_loss_weight = model.config.softplus_beta, 7.0
    assert model.core_hash() == other.core_hash()


@pytest.fixture
def adapter(tmp_path):
    """A core and an adapter of it."""
    build().save_pretrained(tmp_path / "core")
    model = OmniMouseModel.from_pretrained(tmp_path / "core")
    model.add_session("n-1-1", n_neurons=5, animal_id="n")
    return model.save_session("n-1-1", tmp_path / "adapter")


def as_earlier_versions_wrote(folder, model):
    """Takes out of an adapter's configuration what they did not write."""
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text())
    del content["core_config"]
    content["core_sha256"] = hash_tensors(model.core_state_dict())
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("form", ["new", "old"])
@pytest.mark.parametrize(
    "change",
    [{"softplus_beta": 3.0}, {"rope_min_period": 0.1}, {"guard_samples": 0}, {"video_attention_layout": "published"}],
)
def test_an_adapter_is_refused_by_a_core_that_computes_otherwise(adapter, tmp_path, change, form):
    if form == "old":
        as_earlier_versions_wrote(adapter, build())
    core = OmniMouseModel.from_pretrained(tmp_path / "core", **change)
    (name, value), (_, before) = next(iter(change.items())), next(iter(vars_of(change)))
    shown = int(value) if value == 3.0 else value
    with pytest.raises(ValueError, match=rf"other settings: {name} {before} there, {shown} here.*force=True"):
        core.load_session(adapter)
    with pytest.raises(ValueError, match=name):
        OmniMouseModel.from_pretrained(adapter, **change)
    assert core.load_session(adapter, force=True) == "n-1-1"
    assert OmniMouseModel.from_pretrained(adapter).session_keys == ["n-1-1"]
    assert OmniMouseModel.from_pretrained(tmp_path / "core", behavior_loss_weight=1.0).load_session(adapter) == "n-1-1"


def test_adapters_of_earlier_versions_load_on_the_packaged_core_and_on_rounded_ones(tmp_path):
    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    model.add_session("n-1-1", n_neurons=5, animal_id="n")
    model.save_session("n-1-1", tmp_path)
    as_earlier_versions_wrote(tmp_path, model)
    assert AdapterConfig.read(tmp_path).core_config is None
    for core in (
        OmniMouseModel.from_pretrained("omnimouse-tiny"),
        OmniMouseModel.from_pretrained("omnimouse-tiny", dtype=torch.bfloat16),
        OmniMouseModel.from_pretrained("omnimouse-tiny", dtype=torch.float16),
    ):
        assert core.load_session(tmp_path) == "n-1-1"
    changed = OmniMouseModel.from_pretrained("omnimouse-tiny", softplus_beta=3.0)
    changed.save_pretrained(tmp_path / "changed")
    for core in (changed, OmniMouseModel.from_pretrained(tmp_path / "changed")):
        with pytest.raises(ValueError, match="softplus_beta"):
            core.load_session(tmp_path)


def test_sessions_of_a_model_folder_belong_to_its_settings(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"sessions of .* other settings: softplus_beta 0\.1 there, 3 here"):
        OmniMouseModel.from_pretrained(tmp_path, sessions="all", softplus_beta=3.0)
    core = OmniMouseModel.from_pretrained(tmp_path, softplus_beta=3.0)
    with pytest.raises(ValueError, match="softplus_beta"):
        core.load_sessions(["a-1-1"])
    with pytest.raises(ValueError, match=r"another core.*orphan"):
        core.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"softplus_beta": 0.1', '"softplus_beta": 3.0'))
    with pytest.raises(ValueError, match=r"config\.json is no longer the one that a-1-1"):
        OmniMouseModel.from_pretrained(tmp_path, sessions=["a-1-1"])
    index = json.loads((tmp_path / "sessions/index.json").read_text())
    for entry in index.values():
        del entry["core_config_sha256"]  # as earlier versions wrote it
    (tmp_path / "sessions/index.json").write_text(json.dumps(index))
    assert OmniMouseModel.from_pretrained(tmp_path, sessions=["a-1-1"]).session_keys == ["a-1-1"]


def test_scores_belong_to_the_settings(tmp_path):
    model = build(*THREE)
    score = MeasuredScore(
        session_key="a-1-1", task="stimulus", tier="final_test", metric="single-trial correlation, mean over neurons",
        value=0.2, n_windows=3, n_neurons=9, core_sha256=model.core_hash(),
        session_sha256=hash_tensors(model.session_state("a-1-1")), package_version="0.1",
    )  # fmt: skip
    earlier = replace(score, task="population", core_sha256=hash_tensors(model.core_state_dict()))
    model.save_pretrained(tmp_path)
    write_scores(tmp_path, [score, earlier])
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions="all")
    loaded.save_pretrained(tmp_path)
    assert read_scores(tmp_path) == [earlier, score]
    loaded.config.softplus_beta = 3.0
    write_scores(tmp_path / "new", [score, earlier])
    loaded.save_pretrained(tmp_path / "new")
    assert read_scores(tmp_path / "new") == []


def test_a_core_with_other_settings_has_changed(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    assert not OmniMouseModel.from_pretrained(tmp_path).core_has_changed()
    assert not OmniMouseModel.from_pretrained(tmp_path, max_population=5).core_has_changed()
    assert OmniMouseModel.from_pretrained(tmp_path, softplus_beta=3.0).core_has_changed()
