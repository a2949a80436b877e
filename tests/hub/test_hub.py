"""Models and sessions by name, from folders and from the Hub: found, fetched no more than asked for, or refused."""

from __future__ import annotations

import pytest
import torch
from small_models import LONG, THREE, build, client, files

from omnimouse import OmniMouseModel
from omnimouse.hub.sources import find

MOUSE = [(LONG.format(12), 6, "dynamic29515"), (LONG.format(13), 5, "dynamic29515"), ("other-1-1", 4, "other")]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def test_names_of_cores_ignore_case_and_underscores_and_unknown_ones_list_the_known(tmp_path):
    assert find("OmniMouse_TINY").name == "omnimouse-tiny"
    for name in ("omnimouse-90m", "omnimouse 80m", "https://huggingface.co/lab/model", "", "lab/a/b"):
        if name:
            with pytest.raises(
                ValueError, match=r"no model of that name.*omnimouse-tiny, omnimouse-1m.*omnimouse-300m"
            ):
                find(name)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; models and session adapters are folders"):
        find(tmp_path / "file")


def test_a_local_folder_named_like_a_core_or_a_repo_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("omnimouse-80m", "lab/model"):
        build(*THREE).save_pretrained(name)
        assert OmniMouseModel.from_pretrained(name, sessions=["b-1-1"]).session_keys == ["b-1-1"]


def test_only_the_files_that_are_asked_for_travel(loopback_hub, home, tmp_path):
    build(*MOUSE).save_pretrained(tmp_path / "model")
    loopback_hub.add_repo("lab/m", tmp_path / "model")
    client(
        loopback_hub,
        f"""
        keys = {sorted(key for key, _, _ in MOUSE)!r}
        first, second, other = keys
        small = ["README.md", "config.json", "sessions/index.json"]
        file = lambda key: f"sessions/{{key}}.safetensors"

        assert session_keys("lab/m") == keys and fetched() == small, "listing needs no weights"
        model = load("lab/m")
        assert (model.session_keys, fetched()) == ([], ["model.safetensors"])
        assert model.load_sessions("29515-10-12") == [first] and fetched() == [file(first)]
        assert model.load_sessions("all") == [second, other] and fetched() == [file(second), file(other)]
        assert model.load_sessions("all") == [] and fetched() == []
        assert load("lab/m", sessions="all").session_keys == keys and fetched() == [], "all is in the cache"
        local = load({str(tmp_path / "model")!r}, sessions="all").state_dict()
        assert all(torch.equal(tensor, local[name]) for name, tensor in model.state_dict().items())

        for number, (wanted, chosen) in enumerate({{
            "dynamic29515-10-13-*": [second], "29515-*": [first, second], "*": keys, "other-1-1": [other],
        }}.items()):
            cache = Path(f"cache-{{number}}")
            assert AutoModel.from_pretrained("lab/m", sessions=[wanted], cache_dir=cache).session_keys == chosen
            assert [name for name in fetched() if "/" in name] == sorted([*map(file, chosen), "sessions/index.json"])
            assert any(cache.rglob("model.safetensors"))
        refused(ValueError, lambda: load("lab/m", sessions=["1-1-1"]), "no session '1-1-1'", "It has: " + first)
        refused(ValueError, lambda: load("lab/m", sessions=["30000-*"]), "no session '30000-*'")
        assert load("lab/m", sessions=[first], force_download=True).session_keys == [first]
        assert fetched() == sorted([*small, "model.safetensors", file(first)])
        assert isinstance(AutoConfig.from_pretrained("lab/m"), omnimouse.OmniMouseConfig)
        """,
        home,
    )


def test_core_and_sessions_come_from_one_commit(loopback_hub, home, tmp_path):
    for seed in (0, 1):
        build(*THREE, seed=seed).save_pretrained(tmp_path / f"model-{seed}")
    first = loopback_hub.add_repo("lab/m", tmp_path / "model-0")
    loopback_hub.repo("lab/m").tags["v1"] = first
    deep = {f"deep/er/{name}": content for name, content in files(tmp_path / "model-1").items()}
    loopback_hub.add_repo("lab/deep", deep)
    client(
        loopback_hub,
        f"""
        model = load("lab/m")
        auto = AutoModel.from_pretrained("lab/m")
        api.upload_folder(repo_id="lab/m", folder_path={str(tmp_path / "model-1")!r})
        old, new = (load(Path({str(tmp_path)!r}, name), sessions="all") for name in ("model-0", "model-1"))

        def same(found, expected):
            names = found.state_dict().keys()
            return all(torch.equal(found.state_dict()[name], expected.state_dict()[name]) for name in names)

        for loaded in (model, auto):
            assert loaded.load_sessions(["a-*"]) == ["a-1-1", "a-2-1"] and same(loaded, old), "pinned to its commit"
        assert same(load("lab/m", sessions="all"), new)
        for revision in ("v1", {first!r}):
            assert same(load("lab/m", sessions="all", revision=revision), old)
            assert same(AutoModel.from_pretrained("lab/m", sessions="all", revision=revision), old)
        assert session_keys("lab/deep", subfolder="deep/er") == old.session_keys
        assert same(load("lab/deep", sessions="all", subfolder="deep/er"), new)
        assert same(AutoModel.from_pretrained("lab/deep", sessions="all", subfolder="deep/er"), new)
        refused(ValueError, lambda: load("lab/deep"), "holds no model", "deep/er/config.json")
        refused(ValueError, lambda: session_keys("lab/m", revison="v1"), "Unknown arguments revison", "revision")
        """,
        home,
        token="hf_write",
    )


def test_options_of_transformers_models_are_taken(loopback_hub, home, tmp_path):
    build(*THREE).save_pretrained(tmp_path / "model")
    build(*THREE).save_session("a-1-1", tmp_path / "adapter")
    build(*THREE, seed=1).save_session("b-1-1", tmp_path / "stranger")
    loopback_hub.add_repo("lab/m", tmp_path / "model")
    loopback_hub.add_repo("lab/a", tmp_path / "adapter")
    client(
        loopback_hub,
        f"""
        model, info = load("lab/m", sessions=["b-1-1"], device_map="cpu", attn_implementation="sdpa",
                           output_loading_info=True)
        assert model.session_keys == ["b-1-1"] and not info["missing_keys"] and not info["mismatched_keys"]
        assert model.config._attn_implementation == "sdpa" and model.load_session("lab/a") == "a-1-1"

        half = load("lab/m", dtype=torch.bfloat16, sessions=["b-1-1"])
        assert {{p.dtype for _, p in half.core_named_parameters()}} == {{torch.bfloat16}}
        assert half.load_session("lab/a") == "a-1-1", "the core it was trained on, rounded"
        assert {{p.dtype for _, p in half.session_named_parameters()}} == {{torch.float32}}
        out = half("a-1-1", torch.rand(1, 60, 9), behavior=torch.randn(1, 5, 40), mask="population+behavior")
        assert torch.isfinite(out.response_loss)
        refused(ValueError, lambda: load("lab/m", dtype="bfloat16").load_session({str(tmp_path / "stranger")!r}),
                "trained on another core")
        half.save_session("b-1-1", "rounded")
        assert load("lab/m").load_session("rounded") == "b-1-1", "and the other way round"
        """,
        home,
    )


def test_what_the_hub_refuses_is_explained(loopback_hub, home, tmp_path):
    build(*THREE).save_pretrained(tmp_path / "model")
    for name, options in {"open": {}, "hidden": {"private": True}, "gated": {"gated": True}}.items():
        loopback_hub.add_repo(f"lab/{name}", tmp_path / "model", **options)
    loopback_hub.add_repo("lab/empty", {"notes.txt": b""})
    loopback_hub.add_repo("lab/halves", {"config.json": (tmp_path / "model" / "config.json").read_bytes()})
    client(
        loopback_hub,
        """
        for call in (load, session_keys, OmniMouseProcessor.from_pretrained):
            refused(OSError, lambda: call("lab/none"), "no repo 'lab/none'", "private", "hf auth login")
            refused(OSError, lambda: call("lab/hidden"), "no repo 'lab/hidden'", "token=")
            refused(OSError, lambda: call("lab/gated"), "gated", "Accept its terms at", "/lab/gated", "hf auth login")
        for token in ("hf_stranger", False):
            refused(OSError, lambda: load("lab/hidden", token=token), "or it is private and the token does not open it")
        refused(OSError, lambda: load("lab/gated", token="hf_stranger"), "Accept its terms")
        refused(OSError, lambda: load("lab/hidden", token="hf_wrong"), "or an invalid one", "hf auth login")
        assert load("lab/hidden", token="hf_read", sessions=["b-1-1"]).session_keys == ["b-1-1"]
        refused(OSError, lambda: load("lab/open", revision="next"), "no revision 'next'", "branch, a tag or a commit")
        refused(ValueError, lambda: load("lab/empty"), "lab/empty holds no model", "config.json", "rank_<r>.ckpt",
                "notes.txt")
        refused(ValueError, lambda: load("lab/halves"), "lab/halves has a config.json but no weights")
        text = refused(OSError, lambda: load("omnimouse-300m"), "the-enigma-project/omnimouse-300M")
        assert "announced, but had not been uploaded" in text

        api = HfApi(token="hf_write")
        api.delete_file("sessions/a-1-1.safetensors", "lab/open")
        refused(ValueError, lambda: load("lab/open", sessions="all"), "lab/open lists session 'a-1-1'", "is not there")
        assert load("lab/open", sessions=["b-1-1"]).session_keys == ["b-1-1"]
        api.delete_file("model.safetensors", "lab/open")
        refused(ValueError, lambda: load("lab/open"), "lab/open has a config.json but no weights (model.safetensors)")
        api.delete_repo("lab/open")
        refused(OSError, lambda: load("lab/open", cache_dir="other"), "no repo 'lab/open'")
        refused(OSError, lambda: load("lab/open", revision="v2", local_files_only=True), "not in the cache", "offline")
        """,
        home,
    )


def test_a_warm_cache_needs_no_hub_and_says_what_it_lacks(loopback_hub, home, tmp_path):
    build(*THREE).save_pretrained(tmp_path / "model")
    loopback_hub.add_repo("lab/m", tmp_path / "model")
    model = client(
        loopback_hub,
        """
        model = load("lab/m", sessions=["a-*"])
        refused(OSError, lambda: load("lab/m", sessions=["b-1-1"], local_files_only=True), "lab/m", "offline")
        assert load("lab/m", sessions=["a-*"], local_files_only=True).core_hash() == model.core_hash()
        print(model.core_hash())
        """,
        home,
    )
    loopback_hub.clear_log()
    client(
        loopback_hub,
        f"""
        assert session_keys("lab/m") == ["a-1-1", "a-2-1", "b-1-1"]
        model = load("lab/m", sessions=["a-1-1", "a-2-1"])
        assert model.core_hash() == {model.stdout.split()[-1]!r}
        refused(OSError, lambda: model.load_sessions("all"), "not all that is asked for", "HF_HUB_OFFLINE")
        assert model.session_keys == ["a-1-1", "a-2-1"]
        refused(OSError, lambda: load("lab/unheard"), "lab/unheard is not in the cache", "this session is offline")
        refused(OSError, lambda: model.push_to_hub("lab/m"), "offline mode is enabled")
        """,
        home,
        HF_HUB_OFFLINE="1",
    )
    assert loopback_hub.log == []
    client(
        loopback_hub,
        """
        model = load("lab/m", sessions=["a-1-1"])
        refused(OSError, lambda: load("lab/unheard"), "the Hub cannot be asked for it")
        refused(OSError, lambda: model.push_to_hub("lab/new"), "The Hub cannot be reached for lab/new", "Try again")
        """,
        home,
        HF_ENDPOINT="http://127.0.0.1:9",
    )


def test_an_interrupted_download_goes_on_where_it_stopped(loopback_hub, home, tmp_path):
    model = build(*THREE)
    model.save_pretrained(tmp_path / "model")
    loopback_hub.add_repo("lab/m", tmp_path / "model")
    client(
        loopback_hub,
        """
        control("", action="answer", status=400, method="GET", path="/resolve/.*/sessions/b-1-1")
        refused(OSError, lambda: load("lab/m", sessions="all"), "The Hub refused lab/m", "an injected fault")
        assert "model.safetensors" in fetched()
        control("", action="drop_download", path_in_repo="sessions/b-1-1.safetensors", after_bytes=100)
        control("", action="answer", status=503, method="HEAD", path="sessions/b-1-1.safetensors")
        model = load("lab/m", sessions="all")
        assert fetched() == ["sessions/b-1-1.safetensors"]
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, "loaded.safetensors")
        """,
        home,
    )
    from safetensors.torch import load_file

    loaded = load_file(home / "loaded.safetensors")
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
