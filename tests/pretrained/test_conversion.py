"""Published checkpoints open by folder and by name, are converted once, and never by halves."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_models import CASES, DATA, client, files, rank_contents, write_ranks

from omnimouse import Mask, OmniMouseModel, OmniMouseProcessor, convert, session_keys
from omnimouse.pretrained.published import checkpoint_files as published_files
from omnimouse.pretrained.published import conversion
from omnimouse.published import load_checkpoint

KEYS = sorted(CASES["sessions"])
REPO = "the-enigma-project/omnimouse-80M"


@pytest.fixture
def checkpoint(tmp_path):
    return write_ranks(tmp_path / "ckpt", rank_contents())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copies(cache):
    """Folders of converted models below a cache."""
    return sorted(path.parent for path in cache.rglob(conversion.RECORD))


def relative(found, expected):
    found, expected = found.detach().double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def test_folder_name_and_load_checkpoint_give_the_same_tensors_and_the_reference_outputs(
    checkpoint, cache, loopback_hub, tmp_path
):
    loopback_hub.add_repo(REPO, checkpoint)
    client(
        loopback_hub,
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = load("omnimouse-80m", sessions="all")
        assert any("does not hold a model of the size it is named after" in str(w.message) for w in caught)
        assert (model._source.name, model._source.commit) == (
            "the-enigma-project/omnimouse-80M", api.model_info("the-enigma-project/omnimouse-80M").sha)
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, "named.safetensors")
        """,
        tmp_path / "home",
    )
    named = load_file(tmp_path / "home" / "named.safetensors")
    opened = OmniMouseModel.from_pretrained(checkpoint, sessions="all")
    loaded = load_checkpoint(checkpoint)
    assert session_keys(checkpoint) == opened.session_keys == loaded.session_keys == KEYS
    assert named.keys() == opened.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, opened.state_dict()[name]) and torch.equal(tensor, named[name]), name
    written = {"architectures", "dtype"}  # by saving
    configs = ({k: v for k, v in model.config.to_diff_dict().items() if k not in written} for model in (opened, loaded))
    assert next(configs) == next(configs)
    assert opened.processor == OmniMouseProcessor("published") == OmniMouseProcessor.from_pretrained(checkpoint)

    inputs, outputs = load_file(DATA / "inputs.safetensors"), load_file(DATA / "outputs.safetensors")
    case = CASES["cases"][0]
    key, name = case["session"], case["name"]
    arrays = [inputs[f"{key}.{part}"] for part in ("responses", "video", "behavior")]
    ids = {"all_neurons": True} if case["all_neurons"] else {"neuron_ids": inputs[f"{key}.neuron_ids"]}
    with torch.no_grad():
        found = opened(key, *arrays, mask=Mask(**case["mask"]), **ids)
    for part, value in (("loss", found.loss), ("behavior_preds", found.behavior_predictions)):
        if f"{name}.{part}" in outputs:
            assert relative(value, outputs[f"{name}.{part}"]) < 1e-4, part


def test_the_hub_copy_is_made_once_per_commit_and_then_needs_neither_hub_nor_pickles(
    checkpoint, loopback_hub, tmp_path
):
    loopback_hub.organizations["the-enigma-project"] = {"lab"}
    loopback_hub.add_repo(REPO, checkpoint)
    loopback_hub.add_repo("lab/two", {f"{size}/rank_{rank}.ckpt": checkpoint / f"rank_{rank}.ckpt"
                                      for size, ranks in (("a", (0,)), ("b", (0, 1))) for rank in ranks})  # fmt: skip
    other = rank_contents()
    other[0]["state_dict"]["_orig_mod.enc.attention.wo.weight"] += 1
    write_ranks(tmp_path / "other", other)
    client(
        loopback_hub,
        f"""
        warnings.simplefilter("ignore")
        ranks, keys = ["rank_0.ckpt", "rank_1.ckpt"], {KEYS!r}
        home = Path(os.environ["HF_HOME"])
        copies = lambda place: sorted(path.parent for path in Path(place).rglob("conversion.json"))

        model = load("OmniMouse_80M", sessions=["29515-10-12"])
        assert model.session_keys == [keys[1]] and fetched() == ranks
        (copy,) = copies(home / "omnimouse")
        made = copy.stat().st_mtime_ns
        assert model.load_sessions("all") == [keys[0], keys[2]] and session_keys("omnimouse-80m") == keys
        assert load("{REPO}", sessions="all").session_keys == keys and fetched() == []
        assert [*copies(home / "omnimouse"), copy.stat().st_mtime_ns] == [copy, made]

        first = api.model_info("{REPO}").sha
        api.upload_file(path_or_fileobj={str(tmp_path / "other" / "rank_0.ckpt")!r}, path_in_repo="rank_0.ckpt",
                        repo_id="{REPO}")
        changed = load("omnimouse-80m")
        assert changed.core_hash() != model.core_hash() and fetched() == ["rank_0.ckpt"]
        assert len(copies(home / "omnimouse")) == 2
        assert load("omnimouse-80m", revision=first).core_hash() == model.core_hash() and fetched() == []
        load("omnimouse-80m", force_download=True)
        assert fetched() == ranks and len(copies(home / "omnimouse")) == 2

        load("omnimouse-80m", cache_dir="elsewhere")
        assert fetched() == ranks and len(copies("elsewhere")) == 1
        os.environ["OMNIMOUSE_CACHE"] = str(home / "chosen")
        load("omnimouse-80m")
        assert fetched() == [] and len(copies(home / "chosen")) == 1
        del os.environ["OMNIMOUSE_CACHE"]

        assert load("lab/two", subfolder="a", sessions="all").session_keys == [keys[1]]
        assert load("lab/two", subfolder="b", sessions="all").session_keys == keys, "each has a copy of its own"

        for path in (home / "hub").rglob("*"):
            if path.is_symlink() and path.suffix == ".ckpt":
                path.resolve().unlink(missing_ok=True)
                path.unlink()
        """,
        tmp_path / "home",
        token="hf_write",
    )
    loopback_hub.clear_log()
    client(
        loopback_hub,
        f"""
        warnings.simplefilter("ignore")
        assert load("omnimouse-80m", sessions="all").session_keys == session_keys("omnimouse-80m") == {KEYS!r}
        """,
        tmp_path / "home",
        HF_HUB_OFFLINE="1",
    )
    assert loopback_hub.log == []


def test_processor_and_architecture_are_looked_up_without_converting_weights(checkpoint, cache, loopback_hub, tmp_path):
    loopback_hub.add_repo(REPO, checkpoint)
    assert OmniMouseProcessor.from_pretrained(checkpoint, video_mean=100.0).video_mean == 100.0
    assert copies(cache) == []
    client(
        loopback_hub,
        """
        warnings.simplefilter("ignore")
        assert OmniMouseProcessor.from_pretrained("omnimouse-80m") == OmniMouseProcessor("published")
        assert fetched() == [], "all published models have one"
        config = AutoConfig.from_pretrained("omnimouse-80m", max_population=7)
        assert fetched() == ["rank_0.ckpt"] and not list(Path(os.environ["HF_HOME"]).rglob("conversion.json"))
        own = load("omnimouse-80m", max_population=7).config
        saved = ("architectures", "dtype", "_name_or_path")
        assert config.max_population == 7 and type(config) is type(own)
        assert all(value == config.to_dict()[name] for name, value in own.to_dict().items() if name not in saved)
        fetched()
        assert AutoConfig.from_pretrained("omnimouse-80m").dtype == own.dtype and fetched() == [], "of the copy"
        """,
        tmp_path / "home",
    )


def test_a_cache_with_some_of_the_rank_files_is_not_converted_offline(checkpoint, loopback_hub, tmp_path):
    loopback_hub.add_repo(REPO, checkpoint)
    loopback_hub.add_repo("the-enigma-project/omnimouse-5M", {"README.md": b"# Soon"})
    client(
        loopback_hub,
        f"""
        warnings.simplefilter("ignore")
        api.hf_hub_download("{REPO}", "rank_0.ckpt")
        offline = {{"sessions": "all", "local_files_only": True}}
        refused(OSError, lambda: load("omnimouse-80m", **offline), "not in the cache as a whole", "Load it once online")
        assert load("omnimouse-80m", sessions="all").session_keys == {KEYS!r}
        assert load("omnimouse-80m", **offline).session_keys == {KEYS!r}
        refused(ValueError, lambda: load("omnimouse-5m"), "omnimouse-5M holds no model", "README.md")
        refused(OSError, lambda: load("omnimouse-1m"), "no repo 'the-enigma-project/omnimouse-1M'")
        """,
        tmp_path / "home",
    )


def test_a_pickle_with_code_is_refused_from_the_hub_too(loopback_hub, tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    contents = rank_contents()
    contents[1]["extra"] = Payload()
    loopback_hub.add_repo(REPO, write_ranks(tmp_path / "bad", contents))
    client(
        loopback_hub,
        f"""
        from omnimouse import convert
        from omnimouse.cli import main as cli
        for call in (lambda: load("omnimouse-80m"), lambda: convert("omnimouse-80m", "out"),
                     lambda: convert({str(tmp_path / "bad")!r}, "out"), lambda: load({str(tmp_path / "bad")!r})):
            refused(ValueError, call, "rank_1.ckpt is refused", "open", "it was not loaded")
        assert cli.main(["convert", "omnimouse-80m", "out"]) == 2
        assert cli.main(["info", {str(tmp_path / "bad")!r}]) == 0, "names and sizes are told without opening a file"
        assert not Path("out").exists() and not any(Path(os.environ["HF_HOME"], "omnimouse").rglob("*.safetensors"))
        """,
        tmp_path / "home",
    )
    assert not (tmp_path / "ran").exists()


def test_a_local_copy_is_reused_until_a_file_changes_and_the_folder_is_only_read(checkpoint, cache, monkeypatch):
    before = files(checkpoint)
    for path in (checkpoint, *checkpoint.iterdir()):
        path.chmod(path.stat().st_mode & ~0o222)
    first = OmniMouseModel.from_pretrained(checkpoint)
    assert files(checkpoint) == before and len(copies(cache)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(published_files, "read_rank", None)  # would fail if it were read again
        patch.chdir(checkpoint.parent)
        assert OmniMouseModel.from_pretrained("ckpt", sessions="all").session_keys == KEYS
    assert first.load_sessions("29515-11-3") == [KEYS[2]]
    for path in (checkpoint, *checkpoint.iterdir()):
        path.chmod(0o755)

    for with_crc in (True, False):  # the same sizes, other numbers
        torch.serialization.set_crc32_options(with_crc)
        try:
            hashes = set()
            for shift in (0, 1):
                contents = rank_contents()
                contents[0]["state_dict"]["_orig_mod.enc.attention.wo.weight"] += shift
                write_ranks(checkpoint, contents)
                hashes.add(OmniMouseModel.from_pretrained(checkpoint).core_hash())
            assert len(hashes) == 2
        finally:
            torch.serialization.set_crc32_options(True)
    before = len(copies(cache))
    OmniMouseModel.from_pretrained(checkpoint, cache_dir=cache.parent / "used")
    assert len(copies(cache.parent / "used")) == 1
    assert len(copies(cache)) == before, "an argument goes before OMNIMOUSE_CACHE"


def test_convert_writes_a_model_folder_like_any_other(checkpoint, cache, tmp_path, monkeypatch):
    assert convert(checkpoint, tmp_path / "out", progress=False) == tmp_path / "out"
    assert copies(cache) == [], "nothing goes to the cache"
    record = json.loads((tmp_path / "out" / conversion.RECORD).read_text())
    assert record["source"] == "ckpt" and record["commit"] is None and record["sessions_without_file"] == []
    assert not [name for name, content in files(tmp_path / "out").items() if str(tmp_path).encode() in content]
    model = OmniMouseModel.from_pretrained(tmp_path / "out", sessions="all")
    for name, tensor in load_checkpoint(checkpoint).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    model.save_pretrained(tmp_path / "again")
    made = files(tmp_path / "out")
    assert {name: made[name] for name in files(tmp_path / "again")} == files(tmp_path / "again")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    convert("ckpt", "empty", progress=False)
    assert files(tmp_path / "empty").keys() == made.keys()
    with pytest.raises(ValueError, match=r"out is not empty\. Choose a folder that does not exist yet"):
        convert(checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match=r"There is no model folder 'omnimouse-2m'.*omnimouse-80m"):
        convert("omnimouse-2m", tmp_path / "new")
    with pytest.raises(ValueError, match="does not hold a 80m model: hidden_size is 64, expected 768"):
        convert(checkpoint, tmp_path / "new", size="80m")
    with pytest.raises(ValueError, match=r"in our layout already"):
        convert(tmp_path / "again", tmp_path / "new")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"holds no rank_0\.ckpt"):
        convert(tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moment", ["write_session", "write_index", "write_json"])
def test_a_conversion_that_fails_in_the_middle_leaves_nothing(moment, checkpoint, cache, tmp_path, monkeypatch):
    calls, really = [], getattr(conversion, moment)

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == (2 if moment == "write_session" else 1):
            raise OSError("no space left on device")
        return really(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(conversion, moment, fail)
        for call in (lambda: convert(checkpoint, tmp_path / "out"), lambda: OmniMouseModel.from_pretrained(checkpoint)):
            calls.clear()
            with pytest.raises(OSError, match="no space left"):
                call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "ckpt"]
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert OmniMouseModel.from_pretrained(checkpoint, sessions="all").session_keys == KEYS


def test_a_conversion_that_is_killed_leaves_nothing_that_counts_and_is_cleared_away(
    checkpoint, cache, tmp_path, loopback_hub
):
    code = f"""
        from omnimouse.pretrained.published import conversion
        really = conversion.write_session
        def write(folder, spec, *rest, **options):
            entry = really(folder, spec, *rest, **options)
            if spec.key == {KEYS[2]!r}:
                os.kill(os.getpid(), {int(signal.SIGKILL)})
            return entry
        conversion.write_session = write
        load({str(checkpoint)!r})
        """
    killed = client(loopback_hub, code, tmp_path / "home", check=False, OMNIMOUSE_CACHE=str(cache))
    assert killed.returncode == -signal.SIGKILL
    assert list(cache.rglob("*.safetensors")) and copies(cache) == []
    assert OmniMouseModel.from_pretrained(checkpoint, sessions="all").session_keys == KEYS
    (copy,) = copies(cache)
    left = [path for path in cache.rglob("*.safetensors") if copy not in path.parents]
    assert left == [], "what the killed conversion had written"


def test_a_cache_that_cannot_be_written_to_is_explained(checkpoint, cache, tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "cache")

    monkeypatch.setattr(conversion, "_write_converted", denied)
    with pytest.raises(OSError, match=r"cannot be written to .*Set OMNIMOUSE_CACHE .*omnimouse convert"):
        OmniMouseModel.from_pretrained(checkpoint)
    monkeypatch.undo()
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(cache))
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(OSError, match=r"has 0\.0 GB left, but .* needs .* GB"):
        convert(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
