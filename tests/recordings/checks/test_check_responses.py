"""Responses that no model here can mean are said, whatever form the recording has."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from omnimouse import OmniMouseProcessor, Windows, open_recording, recording_from_arrays
from omnimouse.recordings import mean_responses, save_recording

RNG = np.random.default_rng(3)
SOUND = RNG.gamma(0.3, 2.0, (900, 12)).astype(np.float32)
ABSURD = SOUND * np.where(np.arange(12) == 4, 1e4, 1).astype(np.float32)


def said(recording) -> dict[str, str]:
    return {finding.field: str(finding) for finding in recording.validate() if finding.severity != "info"}


@pytest.mark.parametrize(
    ("responses", "field", "text"),
    [
        (SOUND - 0.3, "negative responses", "as dF/F has.*deconvolved activity"),
        (SOUND - SOUND.mean(axis=0), "negative responses", "mean-subtracted or z-scored"),
        (SOUND + 20, "silence", "looks like fluorescence"),
        (ABSURD, "scale", "neuron 4 has .* times the median"),
        (np.where(np.arange(12) == 2, 1, SOUND), "constant signals", "1 of 12: 2"),
    ],
)
def test_what_a_model_cannot_mean_is_found_in_arrays_and_in_their_folder(responses, field, text, tmp_path: Path):
    recording = recording_from_arrays(responses, 15.0)
    for form in (
        recording,
        save_recording(recording, tmp_path / "saved"),
    ):
        found = said(form)
        assert re.search(text, found.get(field, "")), found


def test_sound_activity_and_counts_are_no_warning(tmp_path: Path):
    for responses in (SOUND, RNG.poisson(0.2, (900, 12)).astype(np.uint8), RNG.poisson(20, (900, 12)).astype(float)):
        assert said(recording_from_arrays(responses, 15.0)) == {}


def test_numbers_far_from_all_others_are_found_in_a_folder(write_session):
    folder = write_session()
    for name in ("treadmill", "eye_tracker"):
        array = np.load(folder / name / "data.npy")
        array[50:60, 0] = -9999.0 if name == "treadmill" else 1e20
        np.save(folder / name / "data.npy", array)
    found = [finding for finding in open_recording(folder).validate() if finding.field == "fill values"]
    assert len(found) == 2 and any("-9999 in 0.51% of signal 0" in finding.found for finding in found)


def test_negative_responses_are_warned_about_where_training_reads_them():
    processor = OmniMouseProcessor(profile="strict")
    with pytest.warns(UserWarning, match="33.* negative values"):
        mean_responses(recording_from_arrays(np.where(np.arange(12) % 3, SOUND, -SOUND), 15.0), processor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean_responses(recording_from_arrays(SOUND, 15.0), processor)


def test_one_absurd_neuron_does_not_silence_the_others_under_the_strict_profile():
    plain, loud = (
        Windows(recording_from_arrays(responses, 15.0), "train", processor=OmniMouseProcessor(profile="strict"))
        for responses in (SOUND, ABSURD)
    )
    assert np.allclose(plain[0]["responses"], loud[0]["responses"], rtol=1e-4)
    stds = np.array([1.0, 1.2, 0.8, 1e6])
    assert OmniMouseProcessor(profile="strict").floored_response_stds(stds).tolist() == stds.tolist()
    assert OmniMouseProcessor(profile="experanto-main").floored_response_stds(stds)[0] > 1000
