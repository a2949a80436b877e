"""Video in a fine-tune: nothing is encoded twice, nothing changes by it, and the frozen core keeps no graph."""

from __future__ import annotations

import pytest
import torch
from small_models import files

from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.training import finetune
from omnimouse.training.finetuning import run_video

SETTINGS = {
    "steps": 3, "batch_size": 2, "validate_every": 1, "max_validation_windows": 4, "cpu": True, "progress": False,
    "masks": ["stimulus", "forecasting+stimulus+behavior", "population"], "seed": 1,
}  # fmt: skip


@pytest.fixture
def encoded(monkeypatch):
    """Of every call of `encode_video`, whether a gradient could come of it; training steps encode in `forward`."""
    calls, encode = [], OmniMouseNetwork.encode_video

    def noted(self, video, mask):
        calls.append(torch.is_grad_enabled())
        return encode(self, video, mask)

    monkeypatch.setattr(OmniMouseNetwork, "encode_video", noted)
    return calls


def told(result):
    """The history without what depends on the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


def test_validation_encodes_a_window_once_for_all_masks_and_all_times(killed_run, recording, encoded, monkeypatch):
    kept = finetune(killed_run.small_model(), recording, **SETTINGS)
    assert encoded.count(False) == 2  # batches; two of three masks show video, and it is validated four times
    encoded.clear()
    monkeypatch.setattr(run_video, "MOST_KEPT", 0)
    shared = finetune(killed_run.small_model(), recording, **SETTINGS)
    assert encoded.count(False) == 2 * 4
    monkeypatch.setattr(run_video.RunVideo, "validation_batch", lambda self, batch, mask, place: batch)
    each = finetune(killed_run.small_model(), recording, **SETTINGS)
    assert told(kept) == told(shared) == told(each)


def test_features_of_a_core_that_is_trained_are_those_of_its_weights(killed_run, recording, encoded, monkeypatch):
    settings = SETTINGS | {"train_core": True, "max_validation_windows": 2, "core_learning_rate": 1e-2}
    shared = finetune(killed_run.small_model(), recording, **settings)
    assert encoded.count(False) == 4
    monkeypatch.setattr(run_video.RunVideo, "validation_batch", lambda self, batch, mask, place: batch)
    assert told(finetune(killed_run.small_model(), recording, **settings)) == told(shared)


def test_stored_features_serve_the_next_run_and_change_no_bit(killed_run, recording, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path))
    plain = finetune(killed_run.small_model(), recording, **SETTINGS)
    encoded.clear()
    first = finetune(killed_run.small_model(), recording, cache_video=True, **SETTINGS)
    assert encoded and not any(encoded)
    encoded.clear()
    second = finetune(killed_run.small_model(), recording, cache_video=True, **SETTINGS)
    assert not encoded
    assert told(plain) == told(first) == told(second)


def test_training_windows_without_room_are_not_stored(model, recording, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path))
    monkeypatch.setenv("OMNIMOUSE_VIDEO_CACHE_GB", "0.0002")
    with pytest.warns(UserWarning, match="6 training windows of this run would take .* OMNIMOUSE_VIDEO_CACHE_GB"):
        finetune(model, recording, cache_video=True, **SETTINGS | {"max_validation_windows": 1})
    assert len(files(tmp_path)) == 1


def test_a_core_that_is_trained_is_not_cached(model, recording):
    with pytest.raises(ValueError, match=r"cache_video=True .* train_core=True"):
        finetune(model, recording, cache_video=True, train_core=True, **SETTINGS)


def test_nothing_is_saved_for_gradients_of_the_frozen_video_encoder(model, recording, monkeypatch):
    """Autograd keeps no activation of what needs no graph, and no weight of the core gets a gradient."""
    saved, encode = {"video": 0, "all": 0}, OmniMouseNetwork.encode_video
    inside = []

    def noted(self, video, mask):
        inside.append(True)
        features = encode(self, video, mask)
        inside.pop()
        assert not features.requires_grad
        return features

    def pack(tensor):
        saved["video" if inside else "all"] += 1
        return tensor

    monkeypatch.setattr(OmniMouseNetwork, "encode_video", noted)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        finetune(model, recording, **SETTINGS | {"masks": "stimulus", "validation_tier": None})
    assert saved["all"] and not saved["video"]
    assert all(parameter.grad is None for parameter in model.parameters())
