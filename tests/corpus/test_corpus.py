"""The corpus: what its manifest adds up to, and how its collections are made of each other."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from omnimouse.corpus import collection, collection_names, corpus_sessions
from omnimouse.model.session_tables.session_names import short_key

SESSIONS = {session.key: session for session in corpus_sessions()}


def test_totals_of_the_manifest():
    sessions = corpus_sessions()
    assert len(sessions) == len(SESSIONS) == 333 and len({session.animal_id for session in sessions}) == 73
    neurons = sorted(session.n_neurons for session in sessions)
    assert (sum(neurons), neurons[0], neurons[166], neurons[-1]) == (2_336_848, 1_960, 7_253, 10_771)
    assert sum(session.n_samples for session in sessions) == 61_225_685
    assert sum(session.duration_s for session in sessions) / 3600 == pytest.approx(566.9, abs=0.05)
    stored = sum(session.n_neurons * session.n_samples for session in sessions)
    scanned = sum(session.n_neurons * session.duration_s * session.scan_rate_hz for session in sessions)
    assert stored / 1e9 == pytest.approx(452.55, abs=0.005) and scanned / 1e9 == pytest.approx(117.08, abs=0.005)


def test_kinds_of_sessions():
    sessions = corpus_sessions()
    assert Counter(session.scan_rate_hz for session in sessions) == {
        4: 1, 6: 44, 7: 16, 8: 190, 9: 2, 10: 4, 11: 71, 12: 5,
    }  # fmt: skip
    assert {session.response_rate_hz for session in sessions} == {30}
    assert Counter(session.eye_rate_hz == 20 for session in sessions) == {True: 323, False: 10}
    assert Counter(session.treadmill_rate_hz == 100 for session in sessions) == {True: 319, False: 14}
    assert Counter("+".join(session.modalities) for session in sessions) == {
        "blank+image+video": 150, "blank+video": 146, "blank+image": 23, "INVALID+blank+video": 14,
    }  # fmt: skip
    assert Counter(session.sex for session in sessions) == {"M": 195, "F": 136, None: 2}
    assert {session.key for session in sessions if session.genotype is None} == {"20622-2-14", "22223-2-15"}


def test_keys_of_the_manifest_and_their_animals_fit():
    for session in corpus_sessions():
        assert short_key(session.published_key) == session.key != session.published_key
        assert session.key.split("-")[0] == session.animal_id


@pytest.mark.parametrize("name", collection_names())
def test_keys_are_short_and_there_once(name):
    keys = collection(name)
    assert keys and len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"\d+-\d+-\d+", key) for key in keys)
    assert set(keys) - SESSIONS.keys() <= set(collection("sensorium_test_set"))


def test_sizes_in_the_names_of_collections():
    for name in ("sensorium_2023_10", "manifest_only_12", "pretraining_316", "foundation_evaluation_7"):
        assert len(collection(name)) == int(name.split("_")[-1])
    sizes = {
        "scaling_laws_pretraining": 315, "colossus": 321, "colossus_scaling": 323, "sensorium_test_set": 7,
        "sensorium_2022_test_set": 2, "sensorium_2023_test_set": 5, "platinum_evaluation_dataset": 1,
        "validation_1": 1, "validation_4": 4, "validation_5": 5, "validation_static_sensorium": 1,
    }  # fmt: skip
    assert {name: len(collection(name)) for name in sizes} == sizes


def test_collections_are_made_of_each_other_as_they_say():
    sets = {name: set(collection(name)) for name in collection_names()}
    nested = [sets[f"scaling_laws_{size}"] for size in (8, 16, 32, 64)]
    assert nested[0] < nested[1] < nested[2] < nested[3] and [len(keys) for keys in nested] == [8, 16, 32, 64]
    assert sets["scaling_laws_8"] == sets["foundation_evaluation_7"] | sets["platinum_evaluation_dataset"]
    assert sets["scaling_laws_64"] < sets["colossus_scaling"]
    assert sets["foundation_evaluation_7"] == sets["validation_5"] | sets["sensorium_2022_test_set"]
    assert sets["validation_5"] - sets["validation_4"] == sets["validation_1"] == {"29228-2-10"}
    assert sets["sensorium_test_set"] == sets["sensorium_2022_test_set"] | sets["sensorium_2023_test_set"]
    assert sets["sensorium_2023_10"] == sets["validation_5"] | sets["sensorium_2023_test_set"]
    assert sets["pretraining_316"] - sets["scaling_laws_pretraining"] == sets["platinum_evaluation_dataset"]
    assert sets["colossus"] == sets["validation_5"] | sets["pretraining_316"]
    assert sets["colossus_scaling"] == sets["scaling_laws_8"] | sets["scaling_laws_pretraining"]
    assert sets["pretraining_316"] == sets["colossus_scaling"] - sets["foundation_evaluation_7"]
    assert sets["validation_static_sensorium"] < sets["pretraining_316"]
    others = set().union(*(keys for name, keys in sets.items() if name != "manifest_only_12"))
    assert sets["manifest_only_12"] == SESSIONS.keys() - others
    assert sets["sensorium_test_set"] == others - SESSIONS.keys()


@pytest.mark.parametrize(
    "name, n_listed, n_neurons, hours",
    [
        ("colossus_scaling", 321, 2_302_240, 553.8),
        ("scaling_laws_8", 6, 48_760, 12.2),
        ("scaling_laws_16", 14, 108_532, 26.9),
        ("scaling_laws_32", 30, 216_013, 54.9),
        ("scaling_laws_64", 62, 436_709, 109.0),
    ],
)
def test_totals_of_collections(name, n_listed, n_neurons, hours):
    listed = [SESSIONS[key] for key in collection(name) if key in SESSIONS]
    assert (len(listed), sum(session.n_neurons for session in listed)) == (n_listed, n_neurons)
    assert sum(session.duration_s for session in listed) / 3600 == pytest.approx(hours, abs=0.05)


def test_an_unknown_collection_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no collection 'scaling_law_32' of sessions; did you mean scaling_laws_32\?"):
        collection("scaling_law_32")
    with pytest.raises(ValueError) as error:
        collection("x")
    assert all(name in str(error.value) for name in collection_names()) and "did you mean" not in str(error.value)
