"""Animals by session key."""

from __future__ import annotations

import json

import numpy as np
import pytest

from omnimouse import open_recording, recording_from_arrays
from omnimouse.model.session_tables.session_names import animal_of


@pytest.mark.parametrize(
    ("key", "animal"),
    [
        ("17797-4-7", "17797"),
        ("m1-2-1", "m1"),
        ("sub-M1_ses-1", "M1"),
        ("sub-M1-ses-2", "M1"),
        ("ses-1_sub-M1", "M1"),
        ("sub-M1", "M1"),
        ("mouse-A_day-3", "A"),
        ("sub-M-1_ses-2", "M-1"),
    ],
)
def test_the_animal_of_a_key_that_names_one(key, animal):
    assert animal_of(key) == animal


@pytest.mark.parametrize("keys", [
    ("sub-M1_ses-1", "sub-M2_ses-1"), ("mouse-1", "mouse-2"), ("rec-A-day1", "rec-B-day1"),
    ("2023-05-01_M1", "2023-05-01_M2"),
    ("20230501-1-1", "20230502-1-1"), ("lab-m1-1-1", "lab-m2-1-1"), ("M1_1", "M2_1"), ("实验-甲", "实验-乙"),
])  # fmt: skip
def test_keys_of_other_naming_schemes_do_not_make_one_animal_of_many(keys):
    assert animal_of(keys[0]) != animal_of(keys[1])


def test_readers_take_the_animal_from_the_key_where_nothing_else_names_it(write_session):
    responses = np.random.default_rng(0).gamma(1, 1, (300, 2)).astype(np.float32)
    assert recording_from_arrays(responses, 15.0, session_key="sub-M1_ses-1").animal_id == "M1"
    folder = write_session("sub-M2_ses-1")
    (folder / "meta.json").unlink()
    assert open_recording(folder).animal_id == "M2"
    (folder / "meta.json").write_text(json.dumps({"data_key": "sub-M3_ses-1"}))
    assert open_recording(folder).animal_id == "M3"
