"""Sessions: adding, removing, and every stored form, bit for bit."""

import fnmatch
import json
import shutil

import numpy as np
import pytest
import torch
from small_models import LONG, THREE, build, files
from transformers import AutoModel

from omnimouse import OmniMouseModel, session_keys
from omnimouse.hub.sources import HubOptions, Source
from omnimouse.model.session_tables.initial_vectors import inverse_softplus


def predict(model, key, neurons):
    torch.manual_seed(5)
    responses, behavior = torch.rand(1, 60, neurons), torch.randn(1, 5, 40)
    with torch.no_grad():
        return model(key, responses, behavior=behavior, mask="population+behavior", all_neurons=True)[
            "response_predictions"
        ]


def test_save_load_save_gives_identical_files(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path / "first")
    loaded = OmniMouseModel.from_pretrained(tmp_path / "first", sessions="all")
    loaded.save_pretrained(tmp_path / "second")
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert sorted(files(tmp_path / "first")) == [
        "README.md", "config.json", "model.safetensors", "sessions/a-1-1.safetensors", "sessions/a-2-1.safetensors",
        "sessions/b-1-1.safetensors", "sessions/index.json",
    ]  # fmt: skip
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "first").rglob("*") if path.is_file()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}
    loaded.save_pretrained(tmp_path / "first")  # over the folder it was loaded from
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_order_of_adding_does_not_matter():
    names = [[name for name, _ in build(*order).named_parameters()] for order in (THREE, THREE[::-1])]
    assert names[0] == names[1]
    assert build(*THREE).session_keys == ["a-1-1", "a-2-1", "b-1-1"]


def test_only_sessions_asked_for_are_loaded(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    assert OmniMouseModel.from_pretrained(tmp_path).session_keys == []
    assert OmniMouseModel.from_pretrained(tmp_path, sessions=["a-*"]).session_keys == ["a-1-1", "a-2-1"]
    assert AutoModel.from_pretrained(tmp_path, sessions=["b-1-1"]).session_keys == ["b-1-1"]
    with pytest.raises(ValueError, match=r"no session 'c-1-1'. It has: a-1-1, a-2-1, b-1-1"):
        OmniMouseModel.from_pretrained(tmp_path, sessions=["c-1-1"])
    (tmp_path / "sessions" / "b-1-1.safetensors").unlink()
    assert OmniMouseModel.from_pretrained(tmp_path, sessions=["a-1-1"]).session_keys == ["a-1-1"]
    with pytest.raises(ValueError, match="cannot be read"):
        OmniMouseModel.from_pretrained(tmp_path, sessions=["b-1-1"])


def test_saving_some_sessions_over_their_folder_loses_none(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    before = files(tmp_path)
    OmniMouseModel.from_pretrained(tmp_path, sessions=["a-1-1"]).save_pretrained(tmp_path)
    assert files(tmp_path) == before
    other = build(("z-1-1", 4, "z"), seed=1)
    with pytest.raises(ValueError, match=r"another core.*orphan"):
        other.save_pretrained(tmp_path)
    assert files(tmp_path) == before


def test_adapter_in_a_fresh_core_predicts_the_same(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path / "model")
    model.save_session("a-1-1", tmp_path / "adapter")
    assert sorted(files(tmp_path / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    fresh = OmniMouseModel.from_pretrained(tmp_path / "model")
    assert fresh.load_session(tmp_path / "adapter") == "a-1-1"
    assert torch.equal(predict(model, "a-1-1", 9), predict(fresh, "a-1-1", 9))
    fresh.save_session("a-1-1", tmp_path / "again")
    stored = [tmp_path / name / "adapter_model.safetensors" for name in ("adapter", "again")]
    assert stored[0].read_bytes() == stored[1].read_bytes()


def test_loaded_tensors_are_aligned_so_that_products_round_alike(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path)
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions="all")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_an_adapter_folder_brings_its_core(tmp_path):
    build().save_pretrained(tmp_path / "core")
    model = OmniMouseModel.from_pretrained(tmp_path / "core")
    model.add_session("new", n_neurons=5, animal_id="n")
    model.save_session("new", tmp_path / "adapter")
    loaded = OmniMouseModel.from_pretrained(tmp_path / "adapter")
    assert loaded.session_keys == ["new"] and loaded.core_hash() == model.core_hash()
    (tmp_path / "core").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"belongs to the core .*cannot be loaded.*load it and call"):
        OmniMouseModel.from_pretrained(tmp_path / "adapter")


def test_adapters_remember_their_core_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build(("b-1-1", 4, "b"))
    model.save_pretrained("core")
    model.save_session("b-1-1", "adapter")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert OmniMouseModel.from_pretrained(tmp_path / "adapter").session_keys == ["b-1-1"]


def test_adapters_of_other_cores_are_refused_unless_forced(tmp_path):
    build(*THREE).save_session("b-1-1", tmp_path)
    other = build(seed=1)
    with pytest.raises(ValueError, match=r"trained on another core.*force=True"):
        other.load_session(tmp_path)
    other.load_session(tmp_path, force=True)
    assert other.session_keys == ["b-1-1"]


def test_differing_animal_vectors_need_a_decision(tmp_path):
    model = build(*THREE)
    model.save_session("a-1-1", tmp_path)
    model.remove_session("a-1-1")
    trained = model.session_state("a-2-1")["animal_embedding"]
    with torch.no_grad():
        model.sessions.animal("a-2-1").add_(1)
    with pytest.raises(ValueError, match=r"'a-1-1'.*animal 'a'.*used by a-2-1.*on_animal_conflict"):
        model.load_session(tmp_path)
    kept = model.session_state("a-2-1")["animal_embedding"]
    model.load_session(tmp_path, on_animal_conflict="model")
    assert torch.equal(model.session_state("a-1-1")["animal_embedding"], kept)
    model.remove_session("a-1-1")
    model.load_session(tmp_path, on_animal_conflict="adapter")
    assert torch.equal(model.session_state("a-2-1")["animal_embedding"], trained)


def test_a_session_stored_in_bfloat16_belongs_to_the_animal_vector_it_rounds(tmp_path):
    model = build(*THREE)
    model.save_session("a-1-1", tmp_path, dtype="bfloat16")
    exact = model.session_state("a-2-1")["animal_embedding"]
    model.remove_session("a-1-1")
    model.load_session(tmp_path)
    assert torch.equal(model.session_state("a-2-1")["animal_embedding"], exact)
    model.remove_session("a-1-1")
    with torch.no_grad():
        model.sessions.animal("a-2-1")[0] *= 1.02  # beyond the rounding
    with pytest.raises(ValueError, match="on_animal_conflict"):
        model.load_session(tmp_path)


def test_keys_that_differ_in_dots_and_underscores_alone_are_different_sessions(tmp_path):
    keys = ["a.b", "a_b", "a__b", "a_db", "a..b", "a_"]
    model = build(*((key, 2 + i, key[::-1]) for i, key in enumerate(keys)))
    model.save_pretrained(tmp_path)
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions="all")
    assert loaded.session_keys == sorted(keys) and len(loaded.sessions.animals) == len(keys)
    for i, key in enumerate(keys):
        assert loaded.session_spec(key).n_neurons == 2 + i
        for name, tensor in model.session_state(key).items():
            assert torch.equal(loaded.session_state(key)[name], tensor)


def test_the_name_of_a_session_is_no_pattern_when_its_file_is_fetched(tmp_path, monkeypatch):
    keys = ["weird[1]", "weird1", "w*d"]
    build(*((key, 3, "w") for key in keys)).save_pretrained(tmp_path / "repo")
    build().save_pretrained(tmp_path / "cache")
    (tmp_path / "cache" / "sessions").mkdir()
    shutil.copy(tmp_path / "repo" / "sessions" / "index.json", tmp_path / "cache" / "sessions")

    def download(repo, options, patterns):
        patterns = list(patterns)
        for name in files(tmp_path / "repo"):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                shutil.copy(tmp_path / "repo" / name, tmp_path / "cache" / name)

    monkeypatch.setattr("omnimouse.hub.sources.fetch_files", download)
    model = build()
    model._source = Source("lab/m", tmp_path / "cache", "c0ffee", HubOptions())
    for key in ("weird[1]", "w*d"):
        assert model.load_sessions([key]) == [key]
    assert not (tmp_path / "cache" / "sessions" / "weird1.safetensors").exists()


def test_a_model_shows_itself_in_a_line():
    model = build(*THREE)
    shown = repr(model)
    assert shown.startswith(f"OmniMouseModel(core: {model.num_core_parameters():,} parameters") and len(shown) < 250
    assert all(key in shown for key, _, _ in THREE)
    for number in range(40):
        model.add_session(f"c-{number}-1", n_neurons=2, animal_id="c")
    assert "..." in repr(model) and len(repr(model)) < 250


def test_removing_the_last_session_of_an_animal_removes_its_vector():
    model = build(*THREE)
    model.remove_session("a-1-1")
    assert len(model.sessions.animals) == 2
    model.remove_session("a-2-1")
    assert len(model.sessions.animals) == 1 and model.session_keys == ["b-1-1"]
    with pytest.raises(ValueError, match=r"no session 'a-2-1'\. It has: b-1-1\."):
        model.remove_session("a-2-1")


def test_new_sessions_start_at_the_average_neuron_and_at_the_mean_response():
    model = build(*THREE)
    model.update_initial_vectors()
    means = torch.tensor([0.05, 0.5, 3.0])
    model.add_session("new-1-1", n_neurons=3, animal_id="new", mean_responses=means)
    state = model.session_state("new-1-1")
    everyone = torch.cat([model.session_state(key)["neuron_embedding"] for key, _, _ in THREE])
    torch.testing.assert_close(state["neuron_embedding"], everyone.mean(0).expand(3, -1))
    torch.testing.assert_close(torch.nn.functional.softplus(state["neuron_bias"], beta=0.1), means)
    model.add_session("a-3-1", n_neurons=2, animal_id="a")
    assert torch.equal(
        model.session_state("a-3-1")["animal_embedding"], model.session_state("a-1-1")["animal_embedding"]
    )


def test_inverse_softplus_is_the_inverse_and_finite_at_zero():
    x = torch.tensor([0.0, 1e-3, 0.1, 1.0, 50.0, 1000.0])
    y = inverse_softplus(x, 0.1)
    torch.testing.assert_close(torch.nn.functional.softplus(y, beta=0.1), x.double().clamp_min(1e-3))


@pytest.mark.parametrize("key", ["a.b", "type", "keys", "0", "a_b", "a__b", "gamma", "dynamic29515-10-12-Video-x_30hz"])
def test_awkward_keys_round_trip(key, tmp_path):
    model = build((key, 3, "training"))
    model.save_pretrained(tmp_path)
    loaded = OmniMouseModel.from_pretrained(tmp_path, sessions=[key])
    assert torch.equal(loaded.session_state(key)["neuron_embedding"], model.session_state(key)["neuron_embedding"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: m.add_session("x/y", n_neurons=2, animal_id="a"), "name a file"),
        (lambda m, p: m.add_session("x", n_neurons=0, animal_id="a"), "positive integer"),
        (lambda m, p: m.add_session("x"), "needs n_neurons and animal_id"),
        (lambda m, p: m.add_session("b-1-1", n_neurons=12, animal_id="b"), "already in the model"),
        (lambda m, p: m.add_session("x", n_neurons=2, animal_id="a", mean_responses=[1.0]), "2 finite numbers"),
        (lambda m, p: m.add_session("x", n_neurons=1, animal_id="a", mean_responses=[np.nan]), "finite"),
        (lambda m, p: m.load_session(p), "no session adapter: it has no adapter_config.json"),
        (lambda m, p: OmniMouseModel.from_pretrained(p), "no config.json"),
        (lambda m, p: OmniMouseModel.from_pretrained("omnimouse-90m"), "Known names: omnimouse-tiny"),
        (lambda m, p: OmniMouseModel.from_pretrained(p / "nowhere"), "no model folder"),
    ],
)
def test_mistakes_are_refused_with_a_message(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(build(*THREE), tmp_path)


def test_damaged_files_are_named(tmp_path):
    model = build(*THREE)
    model.save_session("b-1-1", tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    model.remove_session("b-1-1")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        model.load_session(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({k: v for k, v in content.items() if k != "animal_id"}))
    with pytest.raises(ValueError, match="lacks animal_id"):
        model.load_session(tmp_path / "adapter")


def test_saving_never_mixes_adapters_and_models(tmp_path):
    model = build(*THREE)
    model.save_session("b-1-1", tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds the adapter of session 'b-1-1'"):
        model.save_session("a-1-1", tmp_path / "adapter")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model"):
        model.save_session("a-1-1", tmp_path / "model")


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "sessions" / "index.json").read_text())
    index["b-1-1"]["file"] = "../elsewhere.safetensors"
    (tmp_path / "sessions" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside the model folder"):
        OmniMouseModel.from_pretrained(tmp_path, sessions="all")


def test_short_keys_and_globs_choose_among_long_keys(tmp_path):
    long = [LONG.format(12), LONG.format(13), LONG.format(13).replace("30hz", "60hz"), "weird[1]"]
    build(*((key, 3, "29515") for key in long)).save_pretrained(tmp_path)
    for wanted, chosen in {
        "29515-10-12": long[:1],
        "dynamic29515-10-12": long[:1],
        "29515-*": long[:3],
        "29515-10-1[23]": long[:3],
        "dynamic29515-10-13-*": long[1:3],
        "*_60hz": long[2:3],
        "weird[1]": long[3:],
        "*": long,
    }.items():
        for form in (wanted, [wanted], (wanted, wanted)):
            assert OmniMouseModel.from_pretrained(tmp_path, sessions=form).session_keys == sorted(chosen), form
    assert OmniMouseModel.from_pretrained(tmp_path, sessions=[]).session_keys == []
    with pytest.raises(ValueError, match=r"several sessions '29515-10-13': .*30hz, .*60hz\. Name one in full"):
        OmniMouseModel.from_pretrained(tmp_path, sessions=["29515-10-13"])
    for unknown in ("29515", "29515-11-*", "29515-10-14", ""):
        with pytest.raises(ValueError, match="has no session"):
            OmniMouseModel.from_pretrained(tmp_path, sessions=[unknown])


def test_sessions_can_be_loaded_later_from_any_working_directory(tmp_path, monkeypatch):
    build(*THREE).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    model = OmniMouseModel.from_pretrained("model", sessions=["b-1-1"])
    monkeypatch.chdir("/")
    assert model.load_sessions("all") == ["a-1-1", "a-2-1"]
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in build(*THREE).state_dict().items())
    with pytest.raises(ValueError, match="not loaded from a folder or repo"):
        build().load_sessions()


def test_session_keys_lists_without_a_weight_file(tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path / "model")
    model.save_session("a-1-1", tmp_path / "adapter")
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert session_keys(tmp_path / "model") == ["a-1-1", "a-2-1", "b-1-1"]
    assert session_keys(tmp_path / "adapter") == ["a-1-1"]
    with pytest.raises(ValueError, match=r"has a config.json but no weights \(model.safetensors\)"):
        OmniMouseModel.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"is no model folder; the session adapter is .*/adapter"):
        session_keys(tmp_path)
    (tmp_path / "adapter").rename(tmp_path / "other")
    with pytest.raises(ValueError, match=r"no config\.json"):
        session_keys(tmp_path)
    (tmp_path / "recording" / "responses").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is a recording and no model.*open_recording"):
        session_keys(tmp_path / "recording")


def test_a_session_of_the_model_itself_is_no_adapter(tmp_path):
    build(*THREE).save_pretrained(tmp_path)
    model = OmniMouseModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a-1-1 is a session of .*load_sessions\(\['a-1-1'\]\)"):
        model.load_session("a-1-1")
    assert model.load_sessions(["a-1-1"]) == ["a-1-1"]


def test_how_a_session_was_trained_travels_with_it(tmp_path):
    model = build(*THREE)
    model.sessions.note_training("a-1-1", {"steps": 7})
    model.save_pretrained(tmp_path / "model")
    model.save_session("a-1-1", tmp_path / "adapter")
    found = OmniMouseModel.from_pretrained(tmp_path / "model", sessions=["a-1-1", "b-1-1"])
    assert found.session_spec("a-1-1").training == {"steps": 7} and found.session_spec("b-1-1").training is None
    found.remove_session("a-1-1")
    found.load_session(tmp_path / "adapter")
    assert found.session_spec("a-1-1").training == {"steps": 7}


def test_an_adapter_brings_other_sessions_of_its_core_on_request(tmp_path):
    build(*THREE).save_pretrained(tmp_path / "core")
    model = OmniMouseModel.from_pretrained(tmp_path / "core", sessions="all")
    model.add_session("n-1-1", n_neurons=5, animal_id="n")
    for key in ("n-1-1", "a-1-1"):
        model.save_session(key, tmp_path / key)
    for key, wanted, expected in (
        ("n-1-1", ["n-1-1"], ["n-1-1"]),
        ("n-1-1", "all", model.session_keys),
        ("n-1-1", ["a-*"], ["a-1-1", "a-2-1", "n-1-1"]),
        ("a-1-1", "all", ["a-1-1", "a-2-1", "b-1-1"]),
        ("a-1-1", session_keys(tmp_path / "a-1-1"), ["a-1-1"]),
    ):
        assert OmniMouseModel.from_pretrained(tmp_path / key, sessions=wanted).session_keys == expected
    loaded, info = OmniMouseModel.from_pretrained(tmp_path / "n-1-1", output_loading_info=True)
    assert loaded.session_keys == ["n-1-1"] and not info["missing_keys"]
    with pytest.raises(ValueError, match=r"no session 'x'\. It has: a-1-1, a-2-1, b-1-1, n-1-1"):
        OmniMouseModel.from_pretrained(tmp_path / "n-1-1", sessions=["x"])


def test_a_core_rounded_when_it_was_loaded_is_the_same_core(tmp_path):
    build(*THREE).save_pretrained(tmp_path / "core", max_shard_size="100KB")
    exact, rounded = (OmniMouseModel.from_pretrained(tmp_path / "core", dtype=kind) for kind in ("auto", "bfloat16"))
    exact.load_sessions("all")
    exact.save_session("b-1-1", tmp_path / "of-exact")
    assert rounded.load_session(tmp_path / "of-exact") == "b-1-1"
    assert {p.dtype for _, p in rounded.session_named_parameters()} == {torch.float32}
    assert torch.isfinite(predict(rounded, "b-1-1", 12)[:, :, 9:]).all()
    rounded.save_session("b-1-1", tmp_path / "of-rounded")
    assert OmniMouseModel.from_pretrained(tmp_path / "of-rounded").session_keys == ["b-1-1"]
    with torch.no_grad():
        next(parameter for _, parameter in rounded.core_named_parameters()).add_(1)
    rounded.remove_session("b-1-1")
    with pytest.raises(ValueError, match="trained on another core"):
        rounded.load_session(tmp_path / "of-exact")


def test_weights_of_an_earlier_save_in_other_files_are_not_loaded(tmp_path):
    small = {"max_shard_size": "100KB"}
    for seed, options in enumerate(({}, small, {})):
        model = build(seed=seed)
        model.save_pretrained(tmp_path / "core", **options)
        assert OmniMouseModel.from_pretrained(tmp_path / "core").core_hash() == model.core_hash()
    assert sorted(files(tmp_path / "core")) == ["README.md", "config.json", "model.safetensors"]
    build(*THREE).save_pretrained(tmp_path / "sharded", **small)
    before = files(tmp_path / "sharded")
    with pytest.raises(ValueError, match=r"another core.*orphan"):
        build(("z-1-1", 4, "z"), seed=1).save_pretrained(tmp_path / "sharded", **small)
    assert files(tmp_path / "sharded") == before
    build(*THREE[:1]).save_pretrained(tmp_path / "sharded")
    assert session_keys(tmp_path / "sharded") == ["a-1-1", "a-2-1", "b-1-1"]


@pytest.mark.parametrize("moment", ["write_index", "write_model_card", "make_readable"])
def test_a_save_that_fails_leaves_the_folder_as_it_was(moment, tmp_path, monkeypatch):
    build(*THREE).save_pretrained(tmp_path)
    before = files(tmp_path)

    def fail(*_):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(f"omnimouse.pretrained.model_folder.{moment}", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        build(*THREE, seed=1).save_pretrained(tmp_path)
    assert files(tmp_path) == before


def test_a_listed_session_without_its_file_is_named(tmp_path):
    build(*THREE).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "sessions" / "a-1-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lists session 'a-1-1', but sessions/a-1-1.safetensors is not there"):
        OmniMouseModel.from_pretrained(tmp_path / "model", sessions="all")
    shutil.copy(tmp_path / "model" / "sessions" / "b-1-1.safetensors", tmp_path / "model/sessions/a-1-1.safetensors")
    with pytest.raises(ValueError, match=r"'a-1-1': neuron_embedding should have shape \(9, 8\), found \(12, 8\)"):
        OmniMouseModel.from_pretrained(tmp_path / "model", sessions="all")
