"""The recordings of a pre-training: finding them, lending them, where their vectors start."""

from __future__ import annotations

import shutil

import pytest
import torch

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.processing_omnimouse import OmniMouseProcessor
from omnimouse.training.corpus import OpenRecordings, find_sessions
from omnimouse.training.corpus_sessions import FirstVectors, session_spec
from omnimouse.training.pretraining_recipe import ModelRecipe, RecordingsRecipe, load_recipe
from omnimouse.training.pretraining_setup import build_model

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


def lender(sessions, capacity):
    return OpenRecordings(
        sessions, ("train",), stride=1, include_blanks=True, processor=PROCESSOR, capacity=capacity
    )  # fmt: skip


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


def test_a_core_to_start_from_gives_its_sessions_animals_and_means(corpus_path, tiny, tmp_path):
    sessions = find(corpus_path / "m*")
    model, first = tiny(), FirstVectors(tiny(), 3)
    for key in ("a-1-1", "b-2-1"):
        model.sessions.add(
            session_spec(sessions[key]), first.tensors(sessions[key], ("train",), PROCESSOR), device="cpu"
        )
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
