"""Published checkpoints: pickles are read, and never run; what does not fit is named."""

from __future__ import annotations

import collections
import fractions
import gc
import io
import pickle
import re
import weakref
import zipfile

import pytest
import torch
from safetensors.torch import load_file
from small_models import CASES, DATA, rank_contents, write_ranks

from omnimouse import OmniMouseModel
from omnimouse.pretrained.published import checkpoint_files as published_files
from omnimouse.published import load_checkpoint, model_from_state_dict

KEYS = list(CASES["sessions"])


@pytest.fixture
def ranks():
    """The contents of two rank files, to be changed."""
    return rank_contents()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused_both_ways(folder, match):
    """The folder is refused in the same words whether it is loaded or converted, and nothing is left."""
    for call in (load_checkpoint, OmniMouseModel.from_pretrained):
        with pytest.raises(ValueError, match=match) as error:
            call(folder)
    assert not list(folder.parent.joinpath("cache").rglob("*.safetensors"))
    return str(error.value)


def test_a_checkpoint_folder_gives_the_same_model_as_its_state_dict(tmp_path, ranks):
    model = load_checkpoint(write_ranks(tmp_path / "ckpt", ranks))
    weights = load_file(DATA / "published_state_dict.safetensors")
    expected = model_from_state_dict(weights, CASES["hyperparameters"], CASES["sessions"])
    assert model.session_keys == sorted(CASES["sessions"])
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert model.config.video_attention_layout == "published"
    assert model.config.num_attention_heads == 2 and model.config.num_latents == 8


# What could run code.


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, ranks):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    for where in ("extra", "state_dict", "session_map"):
        for rank in (0, 1):
            changed = [dict(content) for content in ranks]
            changed[rank][where] = {**changed[rank].get(where, {}), "payload": Payload()}
            folder = write_ranks(tmp_path / f"{where}-{rank}", changed)
            text = refused_both_ways(folder, rf"rank_{rank}.ckpt is refused.*not loaded")
            assert "io.open" in text or "_io.open" in text, text
    assert not (tmp_path / "ran").exists()


def test_names_that_a_file_asks_for_are_listed_and_imports_do_not_happen(tmp_path, ranks):
    class Unheard:
        def __reduce__(self):
            return fractions.Fraction, (1, 2)

    class Command:
        def __reduce__(self):
            import os

            return os.system, (f"touch {tmp_path / 'ran'}",)

    folder = write_ranks(tmp_path / "ckpt", [{**ranks[0], "a": Unheard(), "b": Command()}, ranks[1]])
    text = refused_both_ways(folder, "is refused")
    assert "fractions.Fraction" in text and "system" in text and "numpy" not in text
    assert not (tmp_path / "ran").exists()

    # A file may ask for something that is not installed: it is named, and nothing is looked for.
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("rank_0/data.pkl", b"\x80\x02cno_such_module\nThing\n)R.")
        file.writestr("rank_0/version", b"3\n")
        file.writestr("rank_0/byteorder", b"little")
    (folder / "rank_0.ckpt").write_bytes(archive.getvalue())
    assert "no_such_module.Thing" in refused_both_ways(folder, "is refused")


def test_what_is_allowed_is_gone_after_reading(tmp_path, ranks):
    before = set(torch.serialization.get_safe_globals())  # torch keeps a set, whose order differs from call to call
    load_checkpoint(write_ranks(tmp_path / "ckpt", ranks))
    assert set(torch.serialization.get_safe_globals()) == before


# Forms in which weights may come.


@pytest.mark.parametrize(
    "form", ["bfloat16", "parameters", "ordered", "one buffer", "transposed", "tensors for counts"]
)
def test_other_forms_of_the_same_weights(form, tmp_path, ranks):
    floats = [{n: t for n, t in rank["state_dict"].items() if t.dtype == torch.float32} for rank in ranks]
    for rank, mine in zip(ranks, floats, strict=True):
        state = rank["state_dict"]
        if form == "bfloat16":
            state.update({name: tensor.bfloat16() for name, tensor in mine.items()})
        elif form == "parameters":
            state.update({name: torch.nn.Parameter(tensor) for name, tensor in mine.items()})
        elif form == "ordered":
            rank["state_dict"] = collections.OrderedDict(state)
            rank["state_dict"]._metadata = collections.OrderedDict({"": {"version": 1}})
        elif form == "one buffer":
            parts = torch.cat([tensor.reshape(-1) for tensor in mine.values()]).split(
                [t.numel() for t in mine.values()]
            )
            state.update({n: part.view(t.shape) for (n, t), part in zip(mine.items(), parts, strict=True)})
        elif form == "transposed":
            state.update({n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in mine.items()})
        else:
            for entry in rank["session_map"].values():
                entry["n_neurons"] = torch.tensor(entry["n_neurons"])
    folder = write_ranks(tmp_path / "ckpt", ranks)
    loaded, opened = load_checkpoint(folder), OmniMouseModel.from_pretrained(folder, sessions="all")
    expected = load_checkpoint(write_ranks(tmp_path / "plain", rank_contents()))
    core = torch.bfloat16 if form == "bfloat16" else torch.float32
    for name, tensor in expected.state_dict().items():
        kept = tensor.to(torch.bfloat16) if form == "bfloat16" else tensor
        found = loaded.state_dict()[name]
        assert found.dtype == (torch.float32 if name.startswith("sessions.") else core), name
        assert torch.equal(found, opened.state_dict()[name]) and found.dtype == opened.state_dict()[name].dtype, name
        if name != "identity.initial":  # means of rounded vectors
            assert torch.equal(found.to(kept.dtype), kept), name


# What does not fit.


def test_all_that_does_not_fit_is_listed_by_published_names_over_several_files(tmp_path, ranks):
    first, second = (rank["state_dict"] for rank in ranks)
    del first["_orig_mod.enc.attention.wo.weight"]
    del second[f"_orig_mod.sess_params.{KEYS[1]}._neuron_biases"]
    first["_orig_mod.decs.0.attention.wo.weight"] = torch.zeros(3, 3)
    first["_orig_mod.proc.1.attention.wo.weight"] = torch.zeros(64, 64, dtype=torch.int64)
    second[f"_orig_mod.sess_params.{KEYS[2]}._session_embedding"] = torch.zeros(7)
    second["surprise.weight"] = torch.zeros(2)
    second["_orig_mod.enc.ffn_pre_norm.weight"] = torch.zeros(64)
    second[f"_orig_mod.sess_params.{KEYS[0]}._neuron_biases"] = torch.zeros(3)
    second["sess_params.nobody._neuron_biases"] = torch.zeros(3)
    text = refused_both_ways(write_ranks(tmp_path / "ckpt", ranks), "These weights do not fit the model")
    for part in (
        "missing: enc.attention.wo.weight",
        f"missing: sess_params.{KEYS[1]}._neuron_biases",
        "misshapen: decs.0.attention.wo.weight is [3, 3], expected [64, 64]",
        "misshapen: proc.1.attention.wo.weight holds torch.int64",
        f"misshapen: sess_params.{KEYS[2]}._session_embedding is [7], expected [",
        "unexpected: surprise.weight in rank_1.ckpt",
        "unexpected: enc.ffn_pre_norm.weight in rank_1.ckpt: the core lies in rank_0.ckpt",
        f"unexpected: session {KEYS[0]} in rank_1.ckpt: rank 0 holds it too",
        "unexpected: tensors of session nobody, which the sessions do not list",
    ):
        assert part in text, (part, text)


def test_any_tensor_of_the_core_may_be_missing_or_misshapen(tmp_path, ranks):
    state = dict(ranks[0]["state_dict"])
    free = ("exp_time_", "timestamps", "window_sizes")
    names = [n for n in state if "sess_params" not in n and "animal" not in n and not any(part in n for part in free)]
    assert len(names) > 80
    folder = write_ranks(tmp_path / "ckpt", ranks)
    for number, name in enumerate(names):
        ranks[0]["state_dict"] = dict(state)
        wrong = (None, torch.tensor(1.0), torch.zeros(0), torch.zeros(7, 3, 2, 1, 2))[number % 4]
        if wrong is None:
            del ranks[0]["state_dict"][name]
        else:
            ranks[0]["state_dict"][name] = wrong
        torch.save(ranks[0], folder / "rank_0.ckpt")
        named = re.escape(name.removeprefix("_orig_mod."))
        with pytest.raises(ValueError, match=rf"{named}|the sizes of its tensors do not make a model"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("state_dict"), "has no state_dict of tensors"),
        (lambda c: c.update(state_dict=[1]), "has no state_dict of tensors"),
        (lambda c: c["state_dict"].update(x=3), "has no state_dict of tensors"),
        (lambda c: c.update(session_map=[1]), "session_map is a list"),
        (lambda c: c.update(session_map={"x": 3}), "session 'x' should have n_neurons and animal_id"),
        (lambda c: c["session_map"].update(x={"n_neurons": "many", "animal_id": "a"}), "session 'x' cannot be"),
        (lambda c: c["session_map"].update(x={"n_neurons": None, "animal_id": "a"}), "session 'x' cannot be"),
        (lambda c: c["session_map"].update({"../x": {"n_neurons": 1, "animal_id": "a"}}), "can name a file"),
        (lambda c: c["state_dict"].update({"enc.attention.wo.weight": torch.zeros(64, 64)}), "wo.weight twice"),
        (lambda c: c["state_dict"].update(x=torch.eye(3).to_sparse()), "x is no plain tensor"),
        (lambda c: c["state_dict"].update(x=torch.zeros(3, device="meta")), "x is no plain tensor"),
        (lambda c: c["state_dict"].update(x=torch.zeros(3, dtype=torch.complex64)), "x is no plain tensor"),
    ],
)
def test_contents_that_cannot_be_are_named(change, message, tmp_path, ranks):
    change(ranks[0])
    refused_both_ways(write_ranks(tmp_path / "ckpt", ranks), message)


def test_unusable_folders_and_files_are_explained(tmp_path, ranks):
    with pytest.raises(ValueError, match=r"holds no rank_0.ckpt"):
        load_checkpoint(tmp_path)
    folder = write_ranks(tmp_path / "ckpt", ranks)
    whole = (folder / "rank_0.ckpt").read_bytes()
    legacy = io.BytesIO()
    torch.save(ranks[0], legacy, _use_new_zipfile_serialization=False)
    for content in (
        b"", b"not a checkpoint", pickle.dumps({"state_dict": {}}), whole[:1000], whole[:-100], legacy.getvalue(),
    ):  # fmt: skip
        (folder / "rank_0.ckpt").write_bytes(content)
        refused_both_ways(folder, r"rank_0.ckpt cannot be read as a checkpoint.*Copy or download it again")
    (folder / "rank_0.ckpt").unlink()
    with pytest.raises(ValueError, match=r"holds no rank_0.ckpt"):
        load_checkpoint(folder)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_pickle_is_a_clear_error_wherever_it_is_damaged(tmp_path, ranks):
    whole = write_ranks(tmp_path / "ckpt", ranks) / "rank_1.ckpt"
    with zipfile.ZipFile(whole) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    generator = torch.Generator().manual_seed(0)
    damaged, refusals = tmp_path / "damaged.ckpt", 0
    for _ in range(300):
        content = bytearray(records[name])
        place, byte = (int(torch.randint(high, (), generator=generator)) for high in (len(content), 256))
        content[place] = byte
        with zipfile.ZipFile(damaged, "w") as archive:
            for other, data in records.items():
                archive.writestr(other, bytes(content) if other == name else data)
        try:
            published_files.read_rank(damaged)
        except ValueError as error:
            assert str(damaged) in str(error)
            refusals += 1
    assert refusals > 100


def test_the_size_can_be_checked(tmp_path, ranks):
    folder = write_ranks(tmp_path / "ckpt", ranks)
    with pytest.raises(ValueError, match="does not hold a 5m model: hidden_size is 64, expected 256"):
        load_checkpoint(folder, size="5m")
    with pytest.raises(ValueError, match=r"Unknown preset '2m'\. Known presets"):
        load_checkpoint(folder, size="2m")


def test_missing_ranks_are_reported(tmp_path, ranks):
    folder = write_ranks(tmp_path / "ckpt", ranks)
    (folder / "rank_1.ckpt").unlink()
    with pytest.warns(UserWarning, match="rank files of 2 sessions are missing"):
        model = load_checkpoint(folder)
    assert model.session_keys == [KEYS[0]]
    for _ in range(2):  # also when the converted copy is used again
        with pytest.warns(UserWarning, match="rank files of 2 sessions are missing"):
            assert OmniMouseModel.from_pretrained(folder, sessions="all").session_keys == [KEYS[0]]


def test_sessions_are_read_one_file_at_a_time(tmp_path, monkeypatch):
    """While a rank file is opened, at most one session of those before is still in memory."""
    contents = rank_contents()
    more = [{**contents[1], "state_dict": {}, "session_map": {}} for _ in range(2)]
    for number, rank in enumerate(more):
        for name, tensor in contents[1]["state_dict"].items():
            key = next(key for key in KEYS if key in name)
            rank["state_dict"][name.replace(key, f"{key}-{number}")] = tensor.clone()
            rank["session_map"][f"{key}-{number}"] = contents[1]["session_map"][key]
    folder = write_ranks(tmp_path / "ckpt", [*contents, *more])
    opened, alive, read = [], [], published_files.read_rank

    def watched(path):
        gc.collect()
        alive.append(len([1 for name, tensor in opened if tensor() is not None]))
        tensors, sessions = read(path)
        if path.name != "rank_0.ckpt":  # stays open for the core
            opened.extend((name, weakref.ref(tensor)) for name, tensor in tensors.items())
        return tensors, sessions

    monkeypatch.setattr(published_files, "read_rank", watched)
    assert len(OmniMouseModel.from_pretrained(folder, sessions="all").session_keys) == 7
    # Once each to learn names and shapes, without reading data; then all but rank 0 once more, for their sessions.
    assert len(alive) == 7 and max(alive[4:]) <= 3 and len(opened) == 36
