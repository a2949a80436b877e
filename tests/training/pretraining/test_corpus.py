"""The recordings of a pre-training: finding them, lending them, where their vectors start."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.corpus.manifest import collection
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.session_tables.initial_vectors import inverse_softplus
from omnimouse.recordings import mean_responses, open_recording
from omnimouse.recordings.simulation.simulated import simulate_recording
from omnimouse.training.pretraining.corpus_recordings import OpenRecordings, find_sessions
from omnimouse.training.pretraining.corpus_sessions import FirstVectors, session_spec
from omnimouse.training.pretraining.pretraining_recipe import ModelRecipe, RecordingsRecipe, load_recipe
from omnimouse.training.pretraining.setup import build_model

PROCESSOR = OmniMouseProcessor(profile="strict")


def find(*paths, **options):
    return find_sessions(RecordingsRecipe(paths=tuple(map(str, paths)), **options))


def test_globs_find_session_folders_and_nothing_else(corpus_path):
    sessions = find(corpus_path / "*", corpus_path / "m1", weights={"a-*": 2, "a-3-1": 3})
    assert list(sessions) == ["a-1-1", "a-3-1", "b-2-1", "b-4-1", "c-5-1"]
    assert [info.n_neurons for info in sessions.values()] == [12, 10, 11, 9, 8]
    assert [info.animal_id for info in sessions.values()] == ["a", "a", "b", "b", "c"]
    assert [info.visits for info in sessions.values()] == [2, 3, 1, 1, 1]
    assert (corpus_path / "m1.truth").is_dir()  # which lies there and is no session


def test_what_is_not_there_is_refused(corpus_path, tmp_path):
    with pytest.raises(ValueError, match="matches 0 entries, none of them a session folder"):
        find(tmp_path / "*")
    with pytest.raises(ValueError, match="cannot be opened"):
        find(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no tier nonsense"):
        find(corpus_path / "m1", tiers=("train", "nonsense"))
    with pytest.raises(ValueError, match="weights names z-\\*, which no session matches"):
        find(corpus_path / "m1", weights={"z-*": 2})
    shutil.copytree(corpus_path / "m1", tmp_path / "again")
    with pytest.raises(ValueError, match="'a-1-1' is there twice"):
        find(corpus_path / "m1", tmp_path / "again")


PUBLISHED_KEY = "dynamic29514-2-9-Video-0123456789abcdef0123456789abcdef_30hz"


def name_session(path, **fields):
    """Changes what a recording is called."""
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, **fields}))


@pytest.fixture(scope="module")
def mixed_path(tmp_path_factory):
    """Folder of two sessions of `validation_4`, one of them under its published key, and one of no collection."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, session, scan in (("s1", 2, 9), ("s2", 77, 1)):
        simulate_recording(folder / name, seed=1, n_neurons=4, minutes=1, animal="29514", session=session, scan=scan)
    shutil.copytree(folder / "s2", folder / "s3")
    name_session(folder / "s1", data_key=PUBLISHED_KEY)
    name_session(folder / "s3", scan_key={"animal_id": "29234", "session": 6, "scan_idx": 9})
    return folder


def test_collections_choose_among_the_sessions_that_are_there(mixed_path):
    assert list(find(mixed_path / "s*")) == ["29234-6-9", "29514-77-1", PUBLISHED_KEY]
    with pytest.warns(UserWarning, match=r"2 of the 4 sessions .*\(validation_4\).*on the other 2"):
        found = find(mixed_path / "s*", collections=("validation_4",), allow_missing=True)
    assert list(found) == ["29234-6-9", PUBLISHED_KEY]
    with pytest.warns(UserWarning, match="7 of the 9 sessions .*validation_4, sensorium_2023_test_set"):
        again = find(
            mixed_path / "s*", collections=("validation_4", "sensorium_2023_test_set"), allow_missing=True
        )  # fmt: skip
    assert again == found


def test_missing_sessions_of_collections_are_refused(mixed_path):
    missing = sorted(set(collection("validation_4")) - {"29234-6-9", "29514-2-9"})
    with pytest.raises(ValueError, match=rf"2 of the 4 sessions .*: {', '.join(missing)}\. Download .*allow_missing"):
        find(mixed_path / "s*", collections=("validation_4",))
    with pytest.raises(ValueError, match=r"14 of the 16 sessions[^:]*: (\S+, ){8}\.\.\. Download.* other 2\."):
        find(mixed_path / "s*", collections=("scaling_laws_16",))


def test_nothing_at_all_is_refused_even_where_sessions_may_be_missing(mixed_path):
    with pytest.raises(ValueError, match=r"5 of the 5 sessions .* nothing to train on"):
        find(mixed_path / "s*", collections=("sensorium_2023_test_set",), allow_missing=True)
    refused = pytest.raises(ValueError, match="weights names 29514-77-1, which no session matches")
    with pytest.warns(UserWarning, match="2 of the 4"), refused:
        find(mixed_path / "s*", collections=("validation_4",), allow_missing=True, weights={"29514-77-1": 2})


def test_complete_collections_are_taken_without_a_word(corpus_path, mixed_path, monkeypatch):
    monkeypatch.setattr("omnimouse.training.pretraining.corpus_recordings.collection", lambda name: ("29514-2-9",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find(mixed_path / "s*", corpus_path / "m*", collections=("validation_1",), allow_missing=True)
    assert list(found) == [PUBLISHED_KEY]


def test_what_lies_outside_the_collections_does_not_matter(mixed_path, tmp_path):
    shutil.copytree(mixed_path / "s2", tmp_path / "again")
    options = {"collections": ("validation_4",), "allow_missing": True}
    with pytest.warns(UserWarning, match="2 of the 4"):
        assert len(find(mixed_path / "s*", tmp_path / "again", **options)) == 2
    # A session under its short key and its published one is still one session.
    shutil.copytree(mixed_path / "s1", tmp_path / "short")
    name_session(tmp_path / "short", data_key="29514-2-9")
    with pytest.raises(ValueError, match="'29514-2-9' is there twice"):
        find(mixed_path / "s*", tmp_path / "short", **options)


def lender(sessions, capacity):
    return OpenRecordings(RecordingsRecipe(paths=("unused",)), sessions, PROCESSOR, capacity=capacity)


def test_no_more_recordings_stay_open_than_asked_for(corpus_path):
    recordings = lender(find(corpus_path / "m*"), 2)
    for key in [*recordings.sessions, *recordings.sessions]:
        with recordings.lend(key) as windows:
            assert windows.recording.session_key == key and len(windows)
        assert recordings.n_open <= 2


def test_two_users_never_share_open_files(corpus_path):
    recordings = lender(find(corpus_path / "m1"), 3)
    with recordings.lend("a-1-1") as one, recordings.lend("a-1-1") as two:
        assert one is not two
    with recordings.lend("a-1-1") as again:
        assert again in (one, two)


@pytest.fixture
def tiny(small_recipe):
    def make(**model):
        recipe = load_recipe(small_recipe("unused", **({"model": model} if model else {})))
        return build_model(recipe, PROCESSOR)

    return make


def test_first_vectors_are_a_function_of_seed_and_name(corpus_path, tiny):
    sessions = find(corpus_path / "m*")
    one, two, other = FirstVectors(tiny(), 3), FirstVectors(tiny(), 3), FirstVectors(tiny(), 4)
    for info in sessions.values():
        first, again = (f.tensors(info, ("train",), PROCESSOR) for f in (one, two))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(
            first["neuron_embedding"], other.tensors(info, ("train",), PROCESSOR)["neuron_embedding"]
        )
        assert first["neuron_embedding"].std() == pytest.approx(8**-0.5, rel=0.25)
    assert torch.equal(one.animal(sessions["a-1-1"]), one.animal(sessions["a-3-1"]))
    assert not torch.equal(one.animal(sessions["a-1-1"]), one.animal(sessions["b-2-1"]))


def test_biases_start_at_the_mean_response_in_the_tiers_trained_on(corpus_path, tiny):
    info, first = find(corpus_path / "m1")["a-1-1"], FirstVectors(tiny(), 3)
    recording = open_recording(corpus_path / "m1")
    biases = []
    for tiers in (("train",), ("train", "validation")):
        means = torch.from_numpy(mean_responses(recording, PROCESSOR, tiers=tiers))
        biases.append(first.tensors(info, tiers, PROCESSOR)["neuron_bias"])
        torch.testing.assert_close(biases[-1], inverse_softplus(means, first.model.config.softplus_beta).float())
    assert not torch.equal(*biases)


def test_a_core_to_start_from_gives_its_sessions_animals_and_means(corpus_path, tiny, tmp_path):
    sessions = find(corpus_path / "m*")
    model, first = tiny(), FirstVectors(tiny(), 3)
    for key in ("a-1-1", "b-2-1"):
        tensors = first.tensors(sessions[key], ("train",), PROCESSOR)
        model.sessions.add_all([(session_spec(sessions[key]), tensors)], device="cpu")
    model.update_initial_vectors()
    model.save_pretrained(tmp_path / "core")
    started = tiny(start_from=str(tmp_path / "core"))
    assert started.core_hash() == model.core_hash() and not started.session_keys
    vectors = FirstVectors(started, 9)
    known = vectors.tensors(sessions["a-1-1"], ("train",), PROCESSOR)
    assert all(torch.equal(known[name], tensor) for name, tensor in model.session_state("a-1-1").items())
    # A new session of a known animal, and one of a new animal.
    sibling, stranger = (vectors.tensors(sessions[key], ("train",), PROCESSOR) for key in ("a-3-1", "c-5-1"))
    assert torch.equal(sibling["animal_embedding"], known["animal_embedding"])
    assert torch.equal(sibling["neuron_embedding"], model.identity.initial[0].detach().repeat(10, 1))
    assert torch.equal(stranger["animal_embedding"], model.identity.initial[2])


def test_a_core_that_knows_another_population_is_refused(corpus_path, tiny, tmp_path):
    model = tiny()
    model.add_session("a-1-1", n_neurons=5, animal_id="a")
    model.save_pretrained(tmp_path / "core")
    vectors = FirstVectors(tiny(start_from=str(tmp_path / "core")), 0)
    with pytest.raises(ValueError, match="has 12 neurons; the core's session 'a-1-1' has 5"):
        vectors.tensors(find(corpus_path / "m1")["a-1-1"], ("train",), PROCESSOR)


def test_a_model_recipe_is_a_configuration():
    config = ModelRecipe("tiny", {"hidden_size": 64}).config()
    assert isinstance(config, OmniMouseConfig) and config.hidden_size == 64
    assert OmniMouseModel(config).num_core_parameters()
