"""Pushing models and session adapters: what others get is what was pushed, and nothing that lies there is lost."""

from __future__ import annotations

import json

import pytest
from loopback_hub import LoopbackHub
from small_models import THREE, build, client

# A core with three sessions as `old`, another core with the same sessions as `new`.
MODELS = """
def has(repo, **options):
    return api.list_repo_files(repo, **options)

def read(repo, name, **options):
    return Path(api.hf_hub_download(repo, name, **options)).read_bytes().decode()

def same(found, expected):
    names = found.state_dict().keys()
    return found.session_keys and all(torch.equal(found.state_dict()[n], expected.state_dict()[n]) for n in names)

old, new = (load(Path(os.environ["MODELS"], name), sessions="all") for name in ("old", "new"))
fresh = lambda name="old", sessions="all": load(Path(os.environ["MODELS"], name), sessions=sessions)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("old", "new")):
        build(*THREE, seed=seed).save_pretrained(folder / name)
    return folder


@pytest.fixture
def push(loopback_hub, tmp_path, models):
    """Runs code as user `lab`, with the models at hand; afterwards nothing on the hub tells of this machine."""

    def run(code, **options):
        client(loopback_hub, MODELS + code, tmp_path / "home", token="hf_write", MODELS=str(models), **options)

    yield run
    check_nothing_leaked(loopback_hub, tmp_path, models)


def check_nothing_leaked(hub, *places):
    """No file of any commit holds a token, or the name of a folder of this machine."""
    secrets = [b"hf_write", b"hf_stranger", b"/tmp/", *(str(place).encode() for place in places)]
    for repo in hub.repositories.values():
        for commit in repo.commits.values():
            for name, entry in commit.files.items():
                content = entry.blob.read()
                assert not [secret for secret in secrets if secret in content], f"{repo.repo_id}/{name}"


@pytest.mark.parametrize("mode", ["lfs", "xet", "regular"])
def test_what_was_pushed_comes_back_bit_for_bit_and_updates_lose_nothing(mode, models, tmp_path):
    with LoopbackHub(tmp_path / "hub", mode=mode) as hub:
        client(
            hub,
            MODELS
            + """
first = fresh(sessions=["a-1-1"]).push_to_hub("lab/m", commit_message="The first", commit_description="Of two.")
assert has("lab/m")[1:] == [
    "README.md", "config.json", "model.safetensors", "sessions/a-1-1.safetensors", "sessions/index.json"
]
assert same(load("lab/m", sessions="all"), old)
again = fresh(sessions=["a-1-1"])
assert again.push_to_hub("lab/m").oid == first.oid, "nothing changed, so there is no new commit"
assert (again._source.name, again._source.commit) == ("lab/m", first.oid)

second = fresh(sessions=["b-1-1", "a-2-1"]).push_to_hub("lab/m", sessions=["b-*"])
assert session_keys("lab/m") == ["a-1-1", "b-1-1"] and same(load("lab/m", sessions="all"), old)
assert session_keys("lab/m", revision=first.oid) == ["a-1-1"]
assert [c.title for c in api.list_repo_commits("lab/m")] == ["Upload model", "The first", "initial commit"]

for where in ({}, {"create_pr": True}, {"revision": "next"}):
    refused(ValueError, lambda: fresh("new", sessions=["b-1-1"]).push_to_hub("lab/m", **where),
            "lab/m holds sessions of another core (a-1-1)", "orphan", "prune=True")
assert api.model_info("lab/m").sha == second.oid
fresh("new", sessions=["b-1-1"]).push_to_hub("lab/m", prune=True)
assert session_keys("lab/m") == ["b-1-1"] and "sessions/a-1-1.safetensors" not in has("lab/m")
assert same(load("lab/m", sessions="all"), new)
assert same(load("lab/m", sessions="all", revision=second.oid), old)
fresh("new", sessions=None).push_to_hub("lab/m", prune=True)
assert has("lab/m")[1:] == ["README.md", "config.json", "model.safetensors"] and session_keys("lab/m") == []

old.push_to_hub("lab/core", sessions=[])
model = load("lab/core")
model.add_session("n-1-1", n_neurons=3, animal_id="n")
adapter = model.push_session_to_hub("n-1-1", "lab/n")
assert model.push_session_to_hub("n-1-1", "lab/n").oid == adapter.oid
stored = json.loads(read("lab/n", "adapter_config.json"))
assert stored["base_model_name_or_path"] == "lab/core" and stored["core_sha256"] == old.core_hash()
assert stored["base_commit"] == api.model_info("lab/core").sha
new.push_to_hub("lab/core", sessions=[])
assert same(load("lab/n"), model), "the adapter names the commit of its core"
refused(ValueError, lambda: load("lab/core").load_session("lab/n"), "trained on another core", "lab/core")
api.delete_repo("lab/core")
refused(ValueError, lambda: load("lab/n", cache_dir="empty"), "belongs to the core 'lab/core'", "cannot be loaded")
assert fresh(sessions=None).load_session("lab/n") == "n-1-1"

with torch.no_grad():
    new.sessions.animal("b-1-1").add_(1)
commit = omnimouse.hub.uploading.Target.commit
def overtaken(target, *rest):
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="lab/m")
    return commit(target, *rest)
omnimouse.hub.uploading.Target.commit = overtaken
refused(OSError, lambda: new.push_to_hub("lab/m"), "changed by somebody else", "nothing was committed", "Push again")
assert session_keys("lab/m") == []
omnimouse.hub.uploading.Target.commit = commit
new.push_to_hub("lab/m")
assert "x.txt" in has("lab/m") and same(load("lab/m", sessions="all"), new)
""",
            tmp_path / "home",
            token="hf_write",
            MODELS=str(models),
        )
        assert not hub.errors()
        check_nothing_leaked(hub, tmp_path, models)
        entry = hub.repo("lab/m").find("main").files["model.safetensors"]
        assert entry.lfs == (mode != "regular") and (entry.blob.xet_hash is not None) == (mode == "xet")


def test_branches_and_pull_requests_to_own_and_other_peoples_repos(push, loopback_hub, models):
    loopback_hub.add_repo("stranger/m", models / "old", author="stranger")
    push("""
only_a = fresh(sessions=["a-1-1"])
main = only_a.push_to_hub("lab/m")
fresh(sessions=["b-1-1"]).push_to_hub("lab/m", revision="more/mice")
assert session_keys("lab/m") == ["a-1-1"] and session_keys("lab/m", revision="more/mice") == ["a-1-1", "b-1-1"]

model = fresh(sessions=["a-2-1"])
mine = model.push_to_hub("lab/m", create_pr=True)
assert mine.pr_revision == "refs/pr/1" and session_keys("lab/m") == ["a-1-1"]
assert model._source.name == str(Path(os.environ["MODELS"], "old")), "what is only proposed is no base for adapters"
fresh(sessions=["b-1-1"]).push_to_hub("lab/m", revision="refs/pr/1")
assert same(load("lab/m", sessions="all", revision="refs/pr/1"), old)
assert session_keys("lab/m", revision="refs/pr/1") == old.session_keys and api.model_info("lab/m").sha == main.oid

theirs = fresh("new").push_to_hub("stranger/m", create_pr=True, commit_message="A better core")
assert theirs.pr_url.endswith("/stranger/m/discussions/1")
assert same(load("stranger/m", sessions="all", revision="refs/pr/1"), new)
assert same(load("stranger/m", sessions="all"), old)
refused(ValueError, lambda: old.push_to_hub("lab/m", create_pr=True, revision="more/mice"), "on the main branch")
refused(OSError, lambda: old.push_to_hub("lab/m", revision="refs/pr/9"), "lab/m has no revision 'refs/pr/9'")
""")


def test_who_may_push_and_read(push, loopback_hub, models):
    loopback_hub.add_repo("stranger/m", models / "old", author="stranger")
    push("""
old.push_to_hub("lab/hidden", private=True)
assert api.model_info("lab/hidden").private
old.push_to_hub("lab/hidden", private=False)
assert api.model_info("lab/hidden").private, "a repo that exists stays as private as it is"
assert load("lab/hidden", sessions="all", cache_dir="with").session_keys == old.session_keys
for token in (False, "hf_stranger"):
    refused(OSError, lambda: load("lab/hidden", token=token, cache_dir="without"), "private and the token does not")
model = fresh()
assert model.push_to_hub("short").repo_url.repo_id == "lab/short" and model._source.name == "lab/short"

write = "needs the right to write to this repo"
refused(OSError, lambda: fresh("new").push_to_hub("lab/short", token="hf_stranger"), "refused lab/short", write)
refused(OSError, lambda: fresh("new").push_to_hub("lab/short", token="hf_read", prune=True), "write token", write)
refused(OSError, lambda: old.push_to_hub("lab/other", token="hf_read"), write)
refused(OSError, lambda: old.push_to_hub("lab/short", token="hf_wrong"), "or an invalid one", "hf auth login")
refused(OSError, lambda: old.push_to_hub("lab/other", token=False), "hf auth login")
refused(OSError, lambda: fresh("new").push_to_hub("stranger/m"), "refused stranger/m", write)
refused(OSError, lambda: old.push_to_hub("stranger/fresh"), write)

refused(ValueError, lambda: old.push_to_hub("lab/a b"), "'lab/a b' cannot be the name of a repo", "user/model")
refused(ValueError, lambda: old.push_to_hub("lab/other", privat=True), "Unknown arguments privat", "private")
refused(ValueError, lambda: old.push_to_hub("lab/other", sessions=["c-1-1"]), "no session 'c-1-1'", "a-1-1")
assert not api.repo_exists("lab/other"), "no repo is made for a push that cannot be"
""")
    assert [name for _, name in loopback_hub.repositories] == ["stranger/m", "lab/hidden", "lab/short"]


def test_adapters_name_a_core_that_others_have_and_keep_to_their_repos(push, models, tmp_path):
    push(f"""
refused(ValueError, lambda: old.push_session_to_hub("a-1-1", "lab/a"), "Others need the core", "push_to_hub",
        "base_model=")
for folder in ({str(models / "old")!r}, "./old", "~/old"):
    refused(ValueError, lambda: old.push_session_to_hub("a-1-1", "lab/a", base_model=folder), "nothing that others can")
unsaved = OmniMouseModel(old.config)
unsaved.add_session("x", n_neurons=2, animal_id="x")
refused(ValueError, lambda: unsaved.push_session_to_hub("x", "lab/a"), "was never saved")
refused(ValueError, lambda: old.push_session_to_hub("c", "lab/a", base_model="lab/m"), "no session 'c'")
assert not api.repo_exists("lab/a")

old.push_to_hub("lab/m")
again = fresh()
again.push_session_to_hub("a-1-1", "lab/a", base_model="lab/m", dtype="bfloat16", training="Two *quick* steps.")
assert has("lab/a")[1:] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
assert "Two *quick* steps." in read("lab/a", "README.md")
assert json.loads(read("lab/a", "adapter_config.json"))["base_commit"] == api.model_info("lab/m").sha
new = load(Path(os.environ["MODELS"], "new"), sessions="all")
another = (ValueError, "holds another core")
missing = (OSError, "no repo 'lab/nosuch'")
for base, (error, message) in zip(("lab/m", "omnimouse-tiny", "lab/nosuch"), (another, another, missing)):
    refused(error, lambda: new.push_session_to_hub("a-1-1", "lab/wrong", base_model=base), message)
refused(ValueError, lambda: new.push_to_hub("lab/wrong", sessions=["c"]), "no session 'c'")
assert not api.repo_exists("lab/wrong"), "what is refused leaves no repo"
found = load("lab/a")
assert found.session_keys == ["a-1-1"] and found.core_hash() == old.core_hash()
expected = old.session_state("a-1-1")
assert all(torch.equal(t, expected[n].bfloat16().float()) for n, t in found.session_state("a-1-1").items())
found.remove_session("a-1-1")
assert found.load_session("lab/a", revision="main") == "a-1-1"
assert session_keys("lab/a") == ["a-1-1"] and load("lab/a", sessions=["a-1-1"]).session_keys == ["a-1-1"]
old.push_session_to_hub("b-1-1", "lab/b")
assert json.loads(read("lab/b", "adapter_config.json"))["base_commit"] == api.model_info("lab/m").sha
model, info = load("lab/b", sessions="all", output_loading_info=True, cache_dir={str(tmp_path / "cache")!r})
assert model.session_keys == old.session_keys and same(model, old) and not info["missing_keys"]

refused(ValueError, lambda: old.push_session_to_hub("b-1-1", "lab/a"), "lab/a holds the adapter of session 'a-1-1'")
refused(ValueError, lambda: old.push_session_to_hub("b-1-1", "lab/m"), "lab/m holds a model")
refused(ValueError, lambda: old.push_to_hub("lab/a"), "lab/a holds a session adapter")
refused(ValueError, lambda: fresh().load_session("lab/m"), "lab/m is no session adapter", "from_pretrained")
old.push_to_hub("lab/both", sessions=["b-1-1"])
with torch.no_grad():
    old.response_readout.weight.add_(1)
refused(ValueError, lambda: old.push_session_to_hub("b-1-1", "lab/b"), "core has changed", "push_to_hub(repo)")
tiny = load("omnimouse-tiny")
tiny.add_session("n-1-1", n_neurons=3, animal_id="n")
tiny.push_session_to_hub("n-1-1", "lab/n")
assert json.loads(read("lab/n", "adapter_config.json"))["base_model_name_or_path"] == "omnimouse-tiny"
assert load("lab/n", sessions=["core00-1-1"]).session_keys == ["core00-1-1", "n-1-1"]
""")


def test_saving_can_push_as_well(push):
    push("""
model = fresh()
model.save_pretrained("my-model", push_to_hub=True, repo_id="lab/m", private=True, sessions=["a-*"], tags=["mine"],
                      commit_message="Both")
assert api.model_info("lab/m").private and "mine" in api.model_info("lab/m").tags
assert api.list_repo_commits("lab/m")[0].title == "Both"
assert session_keys("my-model") == session_keys("lab/m") == ["a-1-1", "a-2-1"]
assert same(load("lab/m", sessions="all"), load("my-model", sessions="all"))
model.save_pretrained("my-model", push_to_hub=True)
assert session_keys("lab/my-model") == old.session_keys, "named after the folder"
control("", action="clear_log")
model.save_pretrained("my-model", push_to_hub=True, is_main_process=False)
assert control("/log") == [], "one process of several pushes"
""")


def test_a_core_in_shards_replaces_one_in_a_file_and_the_other_way_round(push):
    push("""
fresh().push_to_hub("lab/m")
fresh().push_to_hub("lab/m", max_shard_size="100KB")
assert "model.safetensors" not in has("lab/m") and "model.safetensors.index.json" in has("lab/m")
assert same(load("lab/m", sessions="all"), old)
assert load("lab/m", dtype=torch.bfloat16).core_hash() != old.core_hash()
fresh(sessions=["a-1-1"]).push_to_hub("lab/m")
assert [name for name in has("lab/m") if name.startswith("model")] == ["model.safetensors"]
assert session_keys("lab/m") == old.session_keys and same(load("lab/m", sessions="all"), old)
""")


def test_an_upload_that_broke_off_sends_only_the_rest_when_called_again(push, loopback_hub, models):
    index = json.loads((models / "old" / "sessions" / "index.json").read_text())
    assert len(index) == 3
    push("""
import hashlib
digest = lambda name: hashlib.sha256(Path(os.environ["MODELS"], "old", name).read_bytes()).hexdigest()
lost = digest("sessions/b-1-1.safetensors")
control("", action="answer", status=400, method="PUT", path=lost)
refused(OSError, lambda: old.push_to_hub("lab/m"), "The upload to lab/m broke off", "nothing was committed",
        "sessions/b-1-1.safetensors", "Push again")
assert has("lab/m") == [".gitattributes"]
sent = lambda: {entry["path"].removeprefix("/lfs/") for entry in control("/log") if entry["method"] == "PUT"}
assert sent() == {digest(name) for name in ("model.safetensors", *(f"sessions/{key}.safetensors"
                  for key in old.session_keys))}
control("", action="clear_log")
control("", action="drop_upload", after_bytes=100)
control("", action="answer", status=503, path="/preupload/")
control("", action="answer", status=500, method="POST", path="/commit/")
refused(OSError, lambda: old.push_to_hub("lab/m"), "The Hub refused lab/m", "an injected fault")
assert sent() == {lost} and has("lab/m") == [".gitattributes"]
control("", action="clear_log")
old.push_to_hub("lab/m")
assert sent() == set() and same(load("lab/m", sessions="all"), old)
""")
