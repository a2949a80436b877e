"""The configuration is strict, round-trips, and knows the released sizes."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

import omnimouse
from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.configuration_omnimouse import PRESETS

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
