"""The configuration is strict, round-trips, and knows the released sizes."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from small_models import THREE, build
from transformers import AutoConfig, AutoModel, BertConfig

import omnimouse
from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.configuration_omnimouse import PRESETS

COUNTED = {"1m": 6.3, "5m": 9.8, "20m": 35.1, "80m": 114.3, "300m": 347.5}


@pytest.mark.parametrize("preset", COUNTED)
def test_released_sizes_have_the_parameters_of_the_size_table(preset):
    with torch.device("meta"):
        model = OmniMouseModel(OmniMouseConfig.from_preset(preset, identity_size=256))
    assert model.num_core_parameters() / 1e6 == pytest.approx(COUNTED[preset], abs=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip(preset, tmp_path):
    config = OmniMouseConfig.from_preset(preset.upper())
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, OmniMouseConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()


def test_registered_with_the_auto_classes():
    assert isinstance(AutoModel.from_config(OmniMouseConfig.from_preset("tiny")), OmniMouseModel)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "256"}, "hidden_size"),
        ({"video_attention_layout": "scattered"}, "video_attention_layout"),
        ({"num_attention_heads": 3}, "even multiple"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"num_latents": 0}, "num_latents must be at least 1"),
        ({"num_registers": -1}, "num_registers must be at least 0"),
        ({"num_frames": 50}, "same time"),
        ({"latent_window": 7}, "multiple of latent_window"),
        ({"frame_height": 40}, "supported heights are 19-20, 35-36"),
        ({"video_depths": [2]}, "two positive numbers"),
        ({"video_patch_stride": [2, 2]}, "3 entries"),
        ({"video_patch_stride": [2, 0, 2]}, r"video_patch_stride must have entries of at least 1, got \[2, 0, 2\]"),
        ({"rope_min_period": -1.0}, "rope_min_period must be at least"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be at least"),
        ({"video_drop_path_rate": 1.0}, "in \\[0, 1\\)"),
        ({"behavior_channels": ["gaze", "gaze"]}, "distinct"),
        ({"num_local_layers": 0, "num_global_layers": 0}, "cannot both be 0"),
    ],
)
def test_bad_fields_are_refused_with_a_message(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        OmniMouseConfig(**fields)


def test_assigning_a_bad_value_is_refused():
    config = OmniMouseConfig()
    with pytest.raises(StrictDataclassError, match="hidden_size"):
        config.hidden_size = "wide"


def test_unknown_presets_and_overrides_are_named():
    with pytest.raises(ValueError, match="Known presets: tiny, 1m"):
        OmniMouseConfig.from_preset("2m")
    with pytest.raises(ValueError, match="no field hiden_size"):
        OmniMouseConfig.from_preset("1m", hiden_size=3)


@pytest.mark.parametrize(
    ("layers", "ratio", "expected"),
    [(6, (5, 1), "LLLLLG"), (12, (5, 1), "LLLLLGLLLLLG"), (2, (1, 1), "LG"), (5, (2, 1), "LLLLG"), (3, (0, 1), "GGG")],
)
def test_extra_layers_come_first_and_are_local(layers, ratio, expected):
    config = OmniMouseConfig(num_fusion_layers=layers, num_local_layers=ratio[0], num_global_layers=ratio[1])
    assert "".join("LG"[config.is_global_layer(i)] for i in range(layers)) == expected


def test_version_is_set():
    assert omnimouse.__version__.count(".") == 2


# config.json as others may have left it.

LOADERS = {
    "AutoConfig": AutoConfig.from_pretrained,
    "OmniMouseConfig": OmniMouseConfig.from_pretrained,
    "OmniMouseModel": OmniMouseModel.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
}


@pytest.fixture
def folder(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    return tmp_path


def change(folder, **fields):
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_field_of_a_later_version_is_told_and_not_fatal(loader, folder):
    change(folder, video_colours=3, guard_rule={"kind": "new"})
    with pytest.warns(
        UserWarning, match=r"does not know: guard_rule, video_colours|does not know: video_colours, guard"
    ):
        loaded = loader(folder)
    config = loaded if isinstance(loaded, OmniMouseConfig) else loaded.config
    assert not hasattr(config, "video_colours") and config.hidden_size == 32


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_missing_fields_are_all_named(loader, folder):
    change(folder, num_latents=..., softplus_beta=...)
    with pytest.raises(ValueError, match=r"lacks num_latents, softplus_beta\. Copy config.json again"):
        loader(folder)


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_field_of_another_type_is_refused(loader, folder):
    change(folder, num_latents="many")
    with pytest.raises(StrictDataclassError, match="num_latents"):
        loader(folder)


@pytest.mark.parametrize("loader", [OmniMouseConfig.from_pretrained, OmniMouseModel.from_pretrained])
def test_the_configuration_of_another_kind_of_model_is_refused(loader, tmp_path):
    BertConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="of a model of type 'bert', expected 'omnimouse'"):
        loader(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[]", "3", "\x00"])
def test_a_broken_config_json_is_named(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json should hold the architecture of a model"):
        OmniMouseModel.from_pretrained(folder)


def test_what_is_stored_names_every_field_and_no_folder(folder):
    again = OmniMouseModel.from_pretrained(folder, sessions="all")
    again.save_pretrained(folder / "again")
    stored = json.loads((folder / "again" / "config.json").read_text())
    assert stored == json.loads((folder / "config.json").read_text())
    assert "_name_or_path" not in stored and str(folder) not in json.dumps(stored)
    inherited = set(type(again.config).__mro__[1].__dataclass_fields__)
    assert set(OmniMouseConfig.__dataclass_fields__) - inherited <= set(stored)
