"""The shell and the Hub: convert, push, info, and cores and adapters named by their repos."""

from __future__ import annotations

import pytest
from small_models import CASES, THREE, build, client, rank_contents, write_ranks

from omnimouse import OmniMouseModel, session_keys, training
from omnimouse.cli.commands.training_commands import MOST_STARTING_SESSIONS
from omnimouse.cli.main import main
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import open_recording
from omnimouse.recordings.simulation.simulated import simulate_recording

REPO = "the-enigma-project/omnimouse-80M"

SHELL = """
import contextlib, io
from omnimouse.cli.main import main

def shell(*argv, status=0):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main([str(arg) for arg in argv])
    assert found == status, (found, out.getvalue(), err.getvalue())
    return out.getvalue() if status == 0 else err.getvalue()

def said(*argv):
    return json.loads(shell(*argv, "--json"))

def fails(*argv, parts):
    err = shell(*argv, status=2)
    assert "omnimouse: error: " in err and "Traceback" not in err and "not foreseen" not in err, err
    assert all(part in err for part in parts), err

"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings") / "mouse"
    simulate_recording(folder, 5, n_neurons=6, minutes=2.5, animal="cli")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    return write_ranks(tmp_path / "ckpt", rank_contents())


def test_convert_and_info_of_published_checkpoints(checkpoint, loopback_hub, tmp_path):
    first = loopback_hub.add_repo(REPO, checkpoint)
    loopback_hub.repo(REPO).tags["v1"] = first
    keys = sorted(CASES["sessions"])
    client(
        loopback_hub,
        SHELL
        + f"""
info = said("info", "omnimouse-80m")
assert (info["kind"], info["path"], info["converted"]) == ("published checkpoint", "{REPO}", None)
assert list(info["files"]) == ["rank_0.ckpt", "rank_1.ckpt"] and info["bytes"] == sum(info["files"].values())
assert fetched() == [], "nothing large is fetched to tell what there is"
assert "not converted yet" in shell("info", "OmniMouse_80M")
assert said("info", {str(checkpoint)!r})["kind"] == "published checkpoint"
assert said("info")["published_models"]["omnimouse-80m"] == "{REPO}"

converted = said("convert", "omnimouse-80m", "out", "--revision", "v1")
assert converted["kind"] == "model" and sorted(converted["sessions"]) == {keys!r}
assert "use it with --core local" in shell("convert", {str(checkpoint)!r}, "local")
assert load("local", sessions="all").core_hash() == load("omnimouse-80m").core_hash() == load("out").core_hash()
info = said("info", "omnimouse-80m")
assert sorted(info["converted"]["sessions"]) == {keys!r}
assert "converted to:" in shell("info", "omnimouse-80m") and {keys[0]!r} in shell("info", "omnimouse-80m")

fails("convert", "omnimouse-80m", "out", parts=["out is not empty", "does not exist yet"])
fails("convert", "omnimouse-80m", "new", "--size", "5m", parts=["does not hold a 5m model", "hidden_size"])
fails("convert", "omnimouse-80m", "new", "--size", "7m", parts=["Unknown preset '7m'"])
fails("convert", "omnimouse-80m", "new", "--revision", "v2", parts=["no revision 'v2'"])
fails("convert", "omnimouse-300m", "new", parts=["omnimouse-300M", "announced, but had not been uploaded"])
fails("convert", "nowhere", "new", parts=["no model folder 'nowhere'", "omnimouse-80m"])
fails("info", "omnimouse-300m", parts=["omnimouse-300M", "announced"])
fails("info", "lab/none", parts=["no repo 'lab/none'", "hf auth login"])
assert not Path("new").exists()
""",
        tmp_path / "home",
    )


def test_push_and_info_of_models_and_adapters(loopback_hub, tmp_path):
    for seed, name in enumerate(("model", "other")):
        build(*THREE, seed=seed).save_pretrained(tmp_path / name)
    build(*THREE).save_session("b-1-1", tmp_path / "adapter")
    client(
        loopback_hub,
        SHELL
        + f"""
here = Path({str(tmp_path)!r})
pushed = said("push", here / "model", "lab/m", "--sessions", "a-*", "--private", "--commit-message", "From the shell")
assert pushed["commit"] == api.model_info("lab/m").sha and "/lab/m/commit/" in pushed["url"]
assert pushed["pull_request"] is None and api.model_info("lab/m").private
assert api.list_repo_commits("lab/m")[0].title == "From the shell" and session_keys("lab/m") == ["a-1-1", "a-2-1"]
assert "Pushed" in shell("push", here / "model", "lab/m")
assert session_keys("lab/m") == ["a-1-1", "a-2-1", "b-1-1"]
shell("push", here / "other", "lab/m", "--sessions", "none", "--prune", "--revision", "other")
assert session_keys("lab/m", revision="other") == []
pull = said("push", here / "model", "lab/m", "--create-pr", "--sessions", "none", "--prune")
assert pull["pull_request"].endswith("/discussions/1") and session_keys("lab/m", revision="refs/pr/1") == []
fails("push", here / "other", "lab/m", "--sessions", "a-1-1", parts=["lab/m holds sessions of another core"])

fetched()
info = said("info", "lab/m")
assert (info["kind"], info["path"]) == ("model", "lab/m") and len(info["sessions"]) == 3
assert not [name for name in fetched() if name.endswith(".safetensors")]
local = said("info", here / "model")
assert info["n_core_parameters"] == local["n_core_parameters"] == load("lab/m").num_core_parameters()

fails("push", here / "adapter", "lab/a", parts=["does not say which core it belongs to", "--base-model"])
load(here / "model", sessions="all").save_session("b-1-1", "of-folder")
fails("push", "of-folder", "lab/a", parts=["Others need the core", "base_model"])
fails("push", "of-folder", "lab/a", "--base-model", here / "model", parts=["nothing that others can load"])
load(here / "other", sessions="all").save_session("b-1-1", "of-other")
fails("push", "of-other", "lab/a", "--base-model", "lab/m", parts=["trained on another core"])
assert not api.repo_exists("lab/a")
shell("push", here / "adapter", "lab/a", "--base-model", "lab/m", "--dtype", "bfloat16")
info = said("info", "lab/a")
assert (info["kind"], info["path"]) == ("session adapter", "lab/a")
assert info["config"]["base_model_name_or_path"] == "lab/m" and info["tensors"]["neuron_embedding"] == [12, 8]
assert "base_model_name_or_path: lab/m" in shell("info", "lab/a")
fails("push", here / "adapter", "lab/b", "--prune", parts=["is a session adapter", "whole models"])
fails("push", here / "model", "lab/b", "--dtype", "bfloat16", parts=["is a whole model", "session adapters"])
fails("push", here / "model", "lab/a", parts=["lab/a holds a session adapter"])
fails("push", here / "model", "lab/c", "--scores", here / "none.json", parts=["none.json"])
os.environ["HF_TOKEN"] = "hf_read"
fails("push", here / "other", "lab/new", parts=["needs the right to write"])
assert not api.repo_exists("lab/b", token="hf_write")
""",
        tmp_path / "home",
        token="hf_write",
    )


def test_a_recording_with_core_and_adapter_from_the_hub(recording, loopback_hub, tmp_path):
    model = build(*THREE)
    model.processor = OmniMouseProcessor("strict")
    model.save_pretrained(tmp_path / "core")
    loopback_hub.add_repo("lab/core", tmp_path / "core")
    client(
        loopback_hub,
        SHELL
        + f"""
mouse = {str(recording)!r}
quick = ["--steps", "1", "--batch-size", "1", "--masks", "forecasting", "--validation-tier", "none",
         "--start-from", "mean"]
few = ["--tasks", "forecasting", "--max-windows", "1", "--tier", "validation"]
shell("finetune", mouse, "--core", "lab/core", "--output", "mine", *quick)
key = session_keys("mine/adapter")[0]
scores = said("evaluate", mouse, "--session-adapter", "mine/adapter", *few, "--output", "scores.json")
pushed = said("push", "mine/adapter", "lab/mine", "--scores", "scores.json")
stored = json.loads(Path(api.hf_hub_download("lab/mine", "adapter_config.json")).read_text())
assert (stored["base_model_name_or_path"], stored["base_commit"]) == ("lab/core", api.model_info("lab/core").sha)
assert json.loads(Path(api.hf_hub_download("lab/mine", "scores.json")).read_text())[0]["task"] == "forecasting"
again = said("evaluate", mouse, "--session-adapter", "lab/mine", *few)
assert again["tasks"] == scores["tasks"]
assert said("evaluate", mouse, "--core", "lab/core", "--session-adapter", "lab/mine", *few)["tasks"] == scores["tasks"]
assert said("evaluate", mouse, "--core", "lab/mine", *few)["tasks"] == scores["tasks"], "an adapter brings its core"
predicted = said("predict", mouse, "--session-adapter", "lab/mine", "--task", "forecasting", "--tier", "validation",
                 "--max-windows", "1", "--output", "p.npz")
assert predicted["arrays"]["predictions"][2] == 6
assert said("finetune", mouse, "--core", "lab/mine", "--output", "further", *quick)["session"] == key
assert load("further/adapter").session_keys == [key]
fails("evaluate", mouse, "--session-adapter", "lab/core", parts=["lab/core is not a session adapter"])
fails("evaluate", mouse, "--core", "lab/core", parts=["lab/core has no session"])
load("lab/core", sessions="all").push_session_to_hub("b-1-1", "lab/b")
fails("evaluate", mouse, "--session-adapter", "lab/b", parts=["lab/b is the adapter of session b-1-1"])
""",
        tmp_path / "home",
        token="hf_write",
    )


@pytest.mark.parametrize(("more", "most"), [([], MOST_STARTING_SESSIONS), (["--start-from", "mean"], 0)])
def test_finetune_loads_a_few_of_many_sessions(more, most, recording, tmp_path, monkeypatch):
    build(*((f"m-1-{number}", 3, "m") for number in range(40))).save_pretrained(tmp_path / "core")
    assert len(session_keys(tmp_path / "core")) == 40
    started = {}

    def stop(model, found, **_):
        started["keys"] = model.session_keys
        raise ValueError("that is all that is asked")

    monkeypatch.setattr(training, "finetune", stop)
    command = ["finetune", str(recording), "--core", str(tmp_path / "core"), "--output", str(tmp_path / "out"), *more]
    assert main(command) == 2
    assert len(started["keys"]) == most and (most == 0 or started["keys"][0] == "m-1-0")
    model = OmniMouseModel.from_pretrained(tmp_path / "core")
    model.add_session(open_recording(recording))
    model.save_pretrained(tmp_path / "core")
    assert main(command) == 2
    own = open_recording(recording).session_key
    assert own in started["keys"] and len(started["keys"]) <= most + 1, "the recording's own session is among them"
