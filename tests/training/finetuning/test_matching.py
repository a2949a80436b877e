"""New neurons find the known neurons that they resemble."""

import numpy as np
import pytest
import torch
from small_models import SMALL

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.training import finetune
from omnimouse.training.finetuning.matching import match_neurons

KNOWN, NEW = 20, 6


class FakeWindows:
    """Windows whose responses are what the model predicts for some known neurons, plus noise."""

    missing = missing_channels = ()

    def __init__(self, model, chosen, noise):
        generator = torch.Generator().manual_seed(3)
        self.video = torch.randn(12, 1, 60, 36, 64, generator=generator)
        self.behavior = torch.randn(12, 5, 40, generator=generator)
        self.responses = torch.zeros(12, 60, NEW)
        with torch.no_grad():
            out = model("old-1-1", video=self.video, behavior=self.behavior, mask="stimulus+behavior", all_neurons=True)
        signal = out.response_predictions[:, :, chosen]
        self.starts = np.arange(12.0)
        self.responses[:, 30:] = 2 + signal + noise * signal.std() * torch.randn(signal.shape, generator=generator)

    def __len__(self):
        return 12

    def batch(self, indices, names=("responses", "video", "behavior")):
        return {name: getattr(self, name)[indices] for name in names}


@pytest.fixture
def known():
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL))
    model.add_session("old-1-1", n_neurons=KNOWN, animal_id="old")
    with torch.no_grad():
        model.sessions.table("old-1-1").neuron_embedding.normal_()
    model.add_session("new-1-1", n_neurons=NEW, animal_id="new")
    return model.eval()


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_each_neuron_takes_the_vector_of_the_one_it_resembles(known, noise):
    chosen = [3, 7, 7, 19, 0, 11]
    windows = FakeWindows(known, chosen, noise)
    before = known.core_hash(), known.session_state("old-1-1")
    correlation = match_neurons(known, "new-1-1", windows, batch_size=5)
    old, new = known.session_state("old-1-1"), known.session_state("new-1-1")
    assert torch.equal(new["neuron_embedding"], old["neuron_embedding"][chosen])
    assert (correlation > 0.85).all()
    assert known.session_keys == ["new-1-1", "old-1-1"] and known.core_hash() == before[0]
    assert all(torch.equal(before[1][name], old[name]) for name in old)
    with torch.no_grad():
        out = known("new-1-1", **windows.batch(list(range(12))), mask="stimulus+behavior", all_neurons=True)
    torch.testing.assert_close(
        out.response_predictions.mean((0, 1)), windows.responses[:, 30:].mean((0, 1)), atol=0.01, rtol=0.01
    )


def test_a_neuron_that_does_the_contrary_is_no_match(known):
    windows = FakeWindows(known, [3, 7, 7, 19, 0, 11], 0.0)
    windows.responses[:, 30:] = 50 - windows.responses[:, 30:]
    assert (match_neurons(known, "new-1-1", windows) > -0.5).all()
    vectors, old = (known.session_state(key)["neuron_embedding"] for key in ("new-1-1", "old-1-1"))
    assert not any(torch.equal(vector, old[i]) for vector, i in zip(vectors, [3, 7, 7, 19, 0, 11], strict=True))


def test_matching_reads_every_window_and_gives_the_mode_of_the_model_back():
    """Stochastic depth would blur what known neurons are predicted to do."""
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL, video_drop_path_rate=0.9))
    for key, neurons in (("old-1-1", KNOWN), ("new-1-1", NEW)):
        model.add_session(key, n_neurons=neurons, animal_id=key)
    torch.nn.init.normal_(model.sessions.table("old-1-1").neuron_embedding)
    windows = FakeWindows(model.eval(), [3, 7, 7, 19, 0, 11], 0.3)
    expected = match_neurons(model, "new-1-1", windows, batch_size=12)
    assert not model.training
    again = match_neurons(model.train(), "new-1-1", windows, batch_size=5)
    assert model.training
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_without_known_neurons_or_with_visible_responses_it_is_refused(known):
    windows = FakeWindows(known, [0] * NEW, 0.0)
    with pytest.raises(ValueError, match="shows none"):
        match_neurons(known, "new-1-1", windows, task="forecasting")
    known.remove_session("old-1-1")
    with pytest.raises(ValueError, match="no other session"):
        match_neurons(known, "new-1-1", windows)


def test_finetune_matches_when_there_are_other_sessions(known, recording):
    known.remove_session("new-1-1")
    vectors = known.session_state("old-1-1")["neuron_embedding"]
    options = {"steps": 1, "batch_size": 2, "session_learning_rate": 1e-12, "validation_tier": None, "progress": False}
    finetune(known, recording, masks=["behavior"], **options)
    started = known.session_state(recording.session_key)["neuron_embedding"]
    distance = torch.cdist(started, vectors).min(dim=1).values
    assert float(distance.max()) < 1e-4 and len(np.unique(started.numpy(), axis=0)) > 1
    known.remove_session(recording.session_key)
    finetune(known, recording, masks=["behavior"], start_from="mean", **options)
    assert float(known.session_state(recording.session_key)["neuron_embedding"].abs().max()) < 1e-4
    known.remove_session(recording.session_key)
    with pytest.raises(ValueError, match="'auto', 'match' or 'mean'"):
        finetune(known, recording, masks=["behavior"], start_from="best", **options)


def test_nan_is_refused_instead_of_passed_into_the_biases(known):
    windows = FakeWindows(known, [3, 7, 7, 19, 0, 11], 0.0)
    windows.responses[5, 40, 2] = torch.nan
    with pytest.raises(ValueError, match=r"responses of the window\(s\) starting at 5\.000 s .* hold NaN"):
        match_neurons(known, "new-1-1", windows)
    assert known.session_keys == ["new-1-1", "old-1-1"]


def test_a_session_that_cannot_be_matched_is_taken_out_again(known, recording, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no matches")

    monkeypatch.setattr("omnimouse.training.finetuning.preparation.match_neurons", fail)
    with pytest.raises(ValueError, match="no matches"):
        finetune(known, recording, steps=1, cpu=True, progress=False, validation_tier=None)
    assert recording.session_key not in known.session_keys
