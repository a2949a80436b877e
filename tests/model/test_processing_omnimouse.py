"""The processor: profiles, normalisation, and that it survives being saved beside a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_models import THREE, build

from omnimouse import OmniMouseModel
from omnimouse.model.processing_omnimouse import PROFILES, OmniMouseProcessor


@pytest.mark.parametrize("profile", PROFILES)
def test_saved_and_loaded_processors_are_equal(tmp_path, profile):
    processor = OmniMouseProcessor(profile, num_frames=90, video_rate=45, nan_vicinity=0.1, stride_rule="trial")
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["profile"] == profile and stored["num_frames"] == 90
    loaded = OmniMouseProcessor.from_pretrained(tmp_path)
    assert loaded == processor
    assert loaded != OmniMouseProcessor(profile)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/preprocessor_config.json").read_bytes() == (
        tmp_path / "preprocessor_config.json"
    ).read_bytes()


def test_strict_is_the_default():
    assert OmniMouseProcessor() == OmniMouseProcessor(profile="strict")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "paper"}, r"unknown profile 'paper'; choose one of 'published', 'experanto-main', 'strict'"),
        ({"frame_rate": 30}, r"no argument 'frame_rate'"),
        ({"time_rule": "rounded"}, r"time_rule is 'rounded'; choose one of 'linspace', 'integer', 'exact'"),
        ({"video_rate": 0}, "video_rate is 0; it must be finite and > 0"),
        ({"video_std": float("nan")}, "video_std is nan"),
        ({"response_rate": "30"}, "response_rate is '30'; it must be a number"),
        ({"num_frames": 60.0}, "num_frames is 60.0; it must be an integer"),
        ({"safe_interval": -1}, "safe_interval is -1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OmniMouseProcessor(**arguments)


def test_response_std_floors():
    stds = np.array([[4.0, 0.5, 0.001, 0.0, 15.499]])
    assert OmniMouseProcessor("published").floored_response_stds(stds).tolist() == [4.0, 1.0, 1.0, 1.0, 15.499]
    floor = 0.01 * stds.mean()
    for profile in ("experanto-main", "strict"):
        floored = OmniMouseProcessor(profile).floored_response_stds(stds)
        assert floored.tolist() == [4.0, 0.5, floor, floor, 15.499]
    assert stds[0, 3] == 0.0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_strict_floor_does_not_depend_on_the_unit(scale):
    stds = np.array([1.0, 2.0, 1e-5])
    processor = OmniMouseProcessor()
    np.testing.assert_allclose(
        processor.floored_response_stds(stds * scale), processor.floored_response_stds(stds) * scale, rtol=1e-12
    )


def test_strict_replaces_unusable_stds():
    processor = OmniMouseProcessor()
    floored = processor.floored_response_stds(np.array([2.0, np.nan, -1.0, np.inf, 0.0]))
    # The floor is 1 % of the mean of the sound stds, 2 and 0.
    np.testing.assert_allclose(floored, [2.0, 0.01, 0.01, 0.01, 0.01])
    assert processor.floored_response_stds(np.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    means, stds = processor.behavior_statistics(np.array([1.0, np.nan]), np.array([0.0, np.nan]))
    assert (means.tolist(), stds.tolist()) == ([1.0, 0.0], [1.0, 1.0])
    means, stds = OmniMouseProcessor("published").behavior_statistics(np.array([1.0]), np.array([0.0]))
    assert (means.tolist(), stds.tolist()) == ([1.0], [0.0])


def test_nan_buffers_of_the_two_pipelines():
    published, main = OmniMouseProcessor("published"), OmniMouseProcessor("experanto-main")
    assert published.nan_buffer(20) == pytest.approx(0.15)
    assert published.nan_buffer(100) == pytest.approx(0.07)
    assert published.nan_buffer(1000) == pytest.approx(0.055)
    assert main.nan_buffer(20) == main.nan_buffer(100) == 0.05


def test_normalisation_formulas():
    processor = OmniMouseProcessor("experanto-main")
    frames = np.array([[[0.0, 113.0], [172.0, np.nan]]])
    np.testing.assert_allclose(processor.normalize_video(frames), [[[-113 / 59, 0], [1, np.nan]]], rtol=1e-6)
    responses = np.array([[1.0, 2.0]])
    assert processor.normalize_responses(responses, np.array([2.0, 0.5])).tolist() == [[0.5, 4.0]]
    scaled = processor.normalize_behavior(np.array([[3.0], [np.nan]]), np.array([1.0]), np.array([4.0]))
    np.testing.assert_array_equal(scaled, np.array([[0.5], [np.nan]], dtype=np.float32))
    assert scaled.dtype == np.float32


def test_stored_dtype_keeps_digits_that_float32_lookup_loses():
    values, mean, std = np.array([[1e8 + 1.0]]), np.array([1e8]), np.array([1.0])
    assert OmniMouseProcessor("experanto-main").normalize_behavior(values, mean, std) == 1.0
    assert OmniMouseProcessor("published").normalize_behavior(values, mean, std) == 0.0


def test_it_comes_with_a_model_by_any_name(tmp_path):
    assert OmniMouseProcessor.from_pretrained("OmniMouse_Tiny").profile == "strict"
    assert OmniMouseProcessor.from_pretrained("omnimouse-tiny", nan_vicinity=0.2).nan_vicinity == 0.2
    model = build(*THREE)
    model.save_pretrained(tmp_path / "without")
    with pytest.raises(ValueError, match=r"comes without a processor.*OmniMouseProcessor\(profile=.*'strict'"):
        OmniMouseProcessor.from_pretrained(tmp_path / "without")
    model.processor = OmniMouseProcessor("experanto-main", num_frames=90)
    model.save_pretrained(tmp_path / "with")
    assert OmniMouseProcessor.from_pretrained(tmp_path / "with") == model.processor
    assert OmniMouseModel.from_pretrained(tmp_path / "with").processor == model.processor
    model.save_session("b-1-1", tmp_path / "adapter")
    with pytest.raises(ValueError, match="comes without a processor"):
        OmniMouseProcessor.from_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="no model of that name"):
        OmniMouseProcessor.from_pretrained("omnimouse-90m")
