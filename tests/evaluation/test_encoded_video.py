"""Video features on disk: exact, checked, bounded, and never in the way."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from small_models import build, files

from omnimouse.evaluation.encoded_video import feature_files
from omnimouse.evaluation.encoded_video.feature_files import FeatureFiles
from omnimouse.evaluation.encoded_video.stored_video import StoredVideo
from omnimouse.model.masking.masks import TASKS
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork

MASK = TASKS["stimulus"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path))
    return tmp_path / "video-features-1"


@pytest.fixture
def encoded(monkeypatch):
    """How many windows were encoded at each call."""
    counts, encode = [], OmniMouseNetwork.encode_video

    def counted(self, video, mask):
        counts.append(len(video))
        return encode(self, video, mask)

    monkeypatch.setattr(OmniMouseNetwork, "encode_video", counted)
    return counts


@pytest.fixture
def video():
    return torch.randn(3, 1, 60, 36, 64, generator=torch.Generator().manual_seed(1))


def test_features_are_read_back_bit_for_bit_and_only_what_is_missing_is_computed(folder, encoded, video):
    model = build()
    exact = model.encode_video(video, MASK).detach()
    encoded.clear()
    first = StoredVideo.of(model).encode(video[:2], MASK)
    again = StoredVideo.of(model).encode(video, MASK)
    assert encoded == [2, 1]
    assert torch.equal(first, exact[:2]) and torch.equal(again, exact)
    assert not again.requires_grad and len(files(folder)) == 3


def test_features_belong_to_what_they_depend_on(folder, encoded, video):
    """Other frames shown, another video encoder or another precision are other features; other tables are not."""
    model = build()
    StoredVideo.of(model).encode(video, MASK)
    late = replace(MASK, frames_start=30, n_frames=30)
    assert StoredVideo.of(model).encode(video, late).shape[1] < StoredVideo.of(model).encode(video, MASK).shape[1]
    with torch.autocast("cpu", torch.bfloat16):
        low = StoredVideo.of(model).encode(video, MASK)
        assert torch.equal(low, model.encode_video(video, MASK))
    changed = build()
    with torch.no_grad():
        changed.video_encoder.blocks[0].feed_forward.up.weight[0, 0] += 1
    StoredVideo.of(changed).encode(video, MASK)
    encoded.clear()
    other = build(("a-1-1", 9, "a"))
    with torch.no_grad():
        other.decoder.output.weight[0, 0] += 1
    StoredVideo.of(other).encode(video, replace(MASK, target_start=20, target_length=40))
    assert not encoded


def test_damaged_files_are_computed_again(folder, encoded, video):
    model = build()
    exact = StoredVideo.of(model).encode(video, MASK)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    paths[0].write_bytes(paths[0].read_bytes()[:-7])
    content = bytearray(paths[1].read_bytes())
    content[-3] ^= 1
    paths[1].write_bytes(content)
    paths[2].write_bytes(b"")
    encoded.clear()
    assert torch.equal(StoredVideo.of(model).encode(video, MASK), exact)
    assert torch.equal(StoredVideo.of(model).encode(video, MASK), exact)
    assert encoded == [3]


def test_features_of_other_frames_under_a_name_are_no_features(folder, encoded, video):
    model = build()
    exact = StoredVideo.of(model).encode(video, MASK)
    first, *others = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in others:
        shutil.copyfile(first, path)
    encoded.clear()
    assert torch.equal(StoredVideo.of(model).encode(video, MASK), exact) and encoded == [2]


def test_what_was_used_longest_ago_makes_room(tmp_path):
    features, place = torch.zeros(250), tmp_path / "features"
    stored = FeatureFiles(place, limit=5000)
    for name in "abcd":
        stored.write(f"x/{name}", features)
        os.utime(place / "x" / name, (ord(name), ord(name)))
    assert stored.read("x/a") is not None  # used now
    stored.write("x/e", features)
    assert sorted(path.name for path in (place / "x").iterdir()) == ["a", "d", "e"]
    # Another process, which finds what is there, and whose files count for both.
    FeatureFiles(place, limit=5000).write("y/f", features)
    stored.write("x/g", features)
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= 5000
    assert stored.read("x/g") is not None and stored.read("y/f") is not None


def test_a_disk_without_room_is_told_once_and_nothing_is_lost(folder, encoded, video, monkeypatch):
    model = build()
    monkeypatch.setattr(feature_files, "RESERVE", 1 << 62)
    stored = StoredVideo.of(model)
    with pytest.warns(UserWarning, match="not stored in .* GB are free") as told:
        features = stored.encode(video, MASK)
        assert torch.equal(features, stored.encode(video, MASK))
    assert len(told) == 1 and encoded == [3, 3] and not files(folder)


@pytest.mark.parametrize("limit", ["much", "-1", "0", "nan"])
def test_a_limit_that_is_none_is_refused(folder, monkeypatch, limit):
    monkeypatch.setenv("OMNIMOUSE_VIDEO_CACHE_GB", limit)
    with pytest.raises(ValueError, match=f"OMNIMOUSE_VIDEO_CACHE_GB is '{limit}'; expected the GB"):
        FeatureFiles()


def test_an_encoder_that_peft_changed_is_not_stored():
    model = build()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["query_key_value"]), model)
    with pytest.raises(ValueError, match="merge_and_unload"):
        StoredVideo.of(model)
