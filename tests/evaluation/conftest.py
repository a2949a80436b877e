"""A recording, its windows and a model that are small enough to score by hand."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.processing_omnimouse import OmniMouseProcessor

N_NEURONS = 80
"""Enough for every task that shows a part of the population."""


@dataclass
class FakeRecording:
    """The part of `Recording` that evaluation reads."""

    n_neurons: int = N_NEURONS
    session_key: str = "1-2-3"
    animal_id: str = "1"
    path: Path = Path("recordings/1-2-3")
    tiers: tuple[str, ...] = ("train", "final_test")
    unit_ids: np.ndarray | None = field(default_factory=lambda: np.arange(N_NEURONS) + 1000)
    responses: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="responses", sampling_rate=30.0))
    withheld_tiers: tuple[str, ...] = ()

    def statistics(self, device: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.n_neurons), np.linspace(0.5, 3.0, self.n_neurons)


class FakeWindows:
    """Random windows; `most` is the largest batch that was ever cut."""

    n_windows = 7
    missing = missing_channels = ()

    def __init__(self, recording, tiers, *, stride=1, include_blanks=True, processor=None, allow_withheld=False):
        generator = torch.Generator().manual_seed(0)
        self.recording = recording
        n = self.n_windows
        gain = torch.rand(n, 60, 1, generator=generator)
        responses = gain * torch.rand(n, 60, recording.n_neurons, generator=generator) * 3
        self.data = {
            "responses": responses,
            "video": torch.randn(n, 1, 60, 36, 64, generator=generator),
            "behavior": torch.randn(n, 5, 40, generator=generator),
        }
        self.starts = 1.5e9 + np.arange(n) * stride / 30
        self.arguments = {"tiers": tiers, "stride": stride, "include_blanks": include_blanks, "processor": processor}
        self.most = 0

    def __len__(self):
        return len(self.starts)

    def batch(self, indices):
        self.most = max(self.most, len(indices))
        return {name: values[indices].clone() for name, values in self.data.items()}

    def response_indices(self, i):
        return np.arange(60) + 30 * i

    def explain(self):
        return "12 starts: 12 lost to the tier"


class FakeModel:
    """Predicts half of the recorded response plus a ramp over samples, and behavior halved plus its time.

    It cannot see NaN in what it predicts from the recorded values, which is what the tests need: a known answer.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    processor = None

    def __init__(self, n_neurons=N_NEURONS):
        self.config = OmniMouseConfig.from_preset("tiny")
        self.spec = SimpleNamespace(key="1-2-3", n_neurons=n_neurons, animal_id="1", unit_ids_hash=None, training=None)
        self.sessions = SimpleNamespace(full_key=lambda key: key, specs={})
        self.training = True
        self.calls = []

    @property
    def session_keys(self):
        return [self.spec.key]

    def session_spec(self, key):
        return self.spec

    def core_hash(self):
        return "c0" * 32

    def injected_hash(self):
        return None

    def session_state(self, key):
        return {"neuron_bias": torch.arange(float(self.spec.n_neurons))}

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.training = False

    def encode_video(self, video, mask):
        return video  # a fake that sees no video needs no features either

    def __call__(
        self, session, responses=None, video=None, behavior=None, *, mask, neuron_ids=None, all_neurons=False,
        video_features=None, behavior_channels=None,
    ):  # fmt: skip
        assert not self.training and torch.is_inference_mode_enabled()
        video = video if video_features is None else video_features
        self.calls.append({"responses": responses, "video": video, "behavior": behavior, "mask": mask})
        assert all_neurons == (neuron_ids is None)
        size = len(next(x for x in (responses, video, behavior) if x is not None))
        population = self.spec.n_neurons if neuron_ids is None else neuron_ids.shape[1]
        resolved = mask.resolve(population, self.config)
        output = SimpleNamespace(
            response_predictions=None, response_targets=None, target_mask=None, behavior_predictions=None
        )
        if resolved.predicts_responses:
            picked = responses if neuron_ids is None else responses.gather(2, neuron_ids[:, None].expand(-1, 60, -1))
            rows = slice(resolved.target_start, resolved.target_start + resolved.target_length)
            targets = picked[:, rows, resolved.first_target_neuron :]
            valid = torch.as_tensor(resolved.target_mask)
            output.response_targets = targets
            output.response_predictions = torch.where(valid, self.response(targets), torch.nan)
            output.target_mask = valid
        if resolved.decodes_behavior:
            values = torch.zeros(size, 5, 40) if behavior is None else torch.nan_to_num(behavior)
            output.behavior_predictions = self.behavior(values)
        return output

    @staticmethod
    def response(targets):
        ramp = torch.linspace(0, 1, targets.shape[1])[:, None]
        return 0.5 * targets + ramp * (1 + torch.arange(targets.shape[2]) % 3)

    @staticmethod
    def behavior(values):
        return 0.5 * values + torch.linspace(0, 1, 40)


@pytest.fixture
def fakes(monkeypatch):
    """Replaces windows, training means and truth by fakes; `.windows` holds the windows made, `.truth` may be set."""
    inputs = importlib.import_module("omnimouse.evaluation.inputs")
    evaluation = importlib.import_module("omnimouse.evaluation.evaluate")
    kit = SimpleNamespace(windows=[], truth=None, n_windows=7, spoil=lambda windows: None)
    kit.means = np.linspace(0.2, 1.0, N_NEURONS)
    kit.model, kit.recording, kit.Model, kit.Recording = FakeModel(), FakeRecording(), FakeModel, FakeRecording

    def make_windows(*args, **kwargs):
        windows = FakeWindows(*args, **kwargs)
        windows.starts = windows.starts[: kit.n_windows]
        kit.spoil(windows)
        kit.windows.append(windows)
        return windows

    monkeypatch.setattr(inputs, "Windows", make_windows)
    monkeypatch.setattr(evaluation, "mean_responses", lambda recording, processor: kit.means)
    monkeypatch.setattr(evaluation, "load_truth", lambda recording: kit.truth)
    predicting = importlib.import_module("omnimouse.evaluation.predict")
    monkeypatch.setattr(predicting, "fingerprint", lambda recording, **size: {"responses": "those of the fake"})
    kit.processor = OmniMouseProcessor(profile="strict")
    return kit
