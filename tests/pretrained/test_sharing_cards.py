"""What cards say after pushes: what a person wrote, where weights come from, and scores of these weights only."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_models import THREE, build, client

from omnimouse.evaluation.scores import Ceiling, Scores, TaskScore
from omnimouse.pretrained.measured import measured_scores
from omnimouse.support.tensor_files import hash_tensors

CODE = """
import numpy as np
from huggingface_hub import metadata_load
from omnimouse.evaluation.scores import Scores, TaskScore
from omnimouse.support.tensor_files import hash_tensors
from omnimouse.pretrained.measured import read_scores

def get(repo, name="README.md", **options):
    return Path(api.hf_hub_download(repo, name, **options))

def scored(model, key, value=0.25):
    task = TaskScore("forecasting", 9, score=value, per_neuron=np.full(model.session_spec(key).n_neurons, value))
    return Scores(key, "final_test", len(task.per_neuron), {"forecasting": task}, {}, {"stride": 30},
                  core_sha256=model.core_hash(), session_sha256=hash_tensors(model.session_state(key)))

def values(repo):
    index = metadata_load(get(repo)).get("model-index", [{"results": []}])[0]
    return [metric["value"] for result in index["results"] for metric in result["metrics"]]

fresh = lambda **options: load(Path(os.environ["MODELS"], "old"), **{"sessions": "all", **options})
"""


def test_scores_read_from_a_file_are_those_that_were_measured(tmp_path):
    model = build(*THREE)
    task = TaskScore(
        "forecasting", 1, score=0.5, per_neuron=np.array([0.5, np.nan]), n_behavior_windows=1,
        behavior={"running_speed": math.nan}, behavior_groups={"running": math.nan, "gaze": 0.25},
        ceilings={"given_everything": Ceiling(math.nan, math.nan, np.array([np.nan]))}, ceiling_name="given_everything",
    )  # fmt: skip
    hashes = {"core_sha256": model.core_hash(), "session_sha256": hash_tensors(model.session_state("a-1-1"))}
    scores = Scores("a-1-1", "final_test", 2, {"forecasting": task}, **hashes)
    read = Scores.load(scores.save(tmp_path / "scores.json"))
    assert measured_scores(read) == measured_scores(scores) and len(measured_scores(read)) == 2
    assert read.table() == scores.table()
    model.save_pretrained(tmp_path / "model", scores=tmp_path / "scores.json")
    assert "0.5000" in (tmp_path / "model" / "README.md").read_text()


@pytest.fixture
def push(loopback_hub, tmp_path):
    for seed, name in enumerate(("old", "new")):
        build(*THREE, seed=seed).save_pretrained(tmp_path / "models" / name)
    environment = {"token": "hf_write", "MODELS": str(tmp_path / "models")}
    return lambda code: client(loopback_hub, CODE + code, tmp_path / "home", **environment)


def test_a_card_that_a_person_edited_is_kept_word_for_word(push):
    push("""
fresh().push_to_hub("lab/m")
text = get("lab/m").read_bytes()
edited = text.replace(b"# m", b"# My mice", 1).replace(b"\\n---\\n", b"\\nlanguage: en\\n---\\n", 1)
edited += b"\\r\\nMy own words. "
api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id="lab/m")
body = lambda content: content.partition(b"\\n---\\n")[2]
before = api.model_info("lab/m").sha
fresh(sessions=["a-1-1"]).push_to_hub("lab/m")
assert get("lab/m").read_bytes() == edited and api.model_info("lab/m").sha == before
model = fresh()
model.push_to_hub("lab/m", scores=scored(model, "a-1-1"), license="mit", tags=["fast"])
assert body(get("lab/m").read_bytes()) == body(edited)
metadata = metadata_load(get("lab/m"))
assert metadata["language"] == "en" and values("lab/m") == [0.25] and "fast" in metadata["tags"]

own = b"# Nothing but my own words"
api.upload_file(path_or_fileobj=own, path_in_repo="README.md", repo_id="lab/m")
model.push_to_hub("lab/m")
assert get("lab/m").read_bytes().endswith(own) and values("lab/m") == [0.25]
broken = b"---\\nlicense: mit\\ntags: [a\\n---\\nwords"
folder = Path("broken")
model.save_pretrained(folder)
(folder / "README.md").write_bytes(broken)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fresh().save_pretrained(folder)
assert "README.md is left as it is" in str(caught[0].message)
assert (folder / "README.md").read_bytes() == broken
""")


def test_only_scores_of_these_weights_stand_beside_them(push):
    push("""
model = fresh()
model.push_to_hub("lab/m", scores=[scored(model, "a-1-1"), scored(model, "b-1-1", 0.5)])
stored = read_scores(get("lab/m", "scores.json").parent)
assert [(score.session_key, score.value) for score in stored] == [("a-1-1", 0.25), ("b-1-1", 0.5)]
assert values("lab/m") == [0.25, 0.5] and "0.2500" in get("lab/m").read_text()

some = fresh(sessions=["a-1-1"])
some.push_to_hub("lab/m", scores=scored(some, "a-1-1", 0.75))
assert values("lab/m") == [0.75, 0.5], "a newer one replaces it, those of other sessions stay"
before = api.model_info("lab/m").sha
other = load(Path(os.environ["MODELS"], "new"), sessions="all")
for target in ("lab/m", "lab/n"):
    refused(ValueError, lambda: some.push_to_hub(target, scores=scored(other, "a-1-1")), "measured on other weights")
refused(ValueError, lambda: some.push_to_hub("lab/m", scores=scored(other, "b-1-1")), "'b-1-1'", "other weights")
unknown = scored(some, "a-1-1").__class__("a-1-1", "final_test", 9, {})
refused(ValueError, lambda: some.push_to_hub("lab/m", scores=unknown), "do not say which weights")
assert api.model_info("lab/m").sha == before

with torch.no_grad():
    some.sessions.table("a-1-1").neuron_bias.add_(1)
some.push_to_hub("lab/m")
assert values("lab/m") == [0.5], "the session is another one now"
fresh(sessions=None).push_to_hub("lab/m", prune=True)
assert values("lab/m") == [] and "scores.json" not in api.list_repo_files("lab/m")

model.push_session_to_hub("a-1-1", "lab/a", base_model="lab/m", scores=scored(model, "a-1-1"))
model.push_session_to_hub("a-1-1", "lab/a", base_model="lab/m")
assert values("lab/a") == [0.25]
refused(ValueError, lambda: model.push_session_to_hub("a-1-1", "lab/a", base_model="lab/m",
                                                      scores=scored(model, "b-1-1")), "'b-1-1'")
with torch.no_grad():
    model.sessions.table("a-1-1").neuron_bias.add_(1)
model.push_session_to_hub("a-1-1", "lab/a", base_model="lab/m")
assert values("lab/a") == [] and "scores.json" not in api.list_repo_files("lab/a")
""")


def test_a_card_goes_on_saying_where_the_weights_come_from(push, loopback_hub, tmp_path):
    build(*THREE).save_pretrained(tmp_path / "theirs")
    loopback_hub.add_repo("stranger/core", tmp_path / "theirs", author="stranger")
    push("""
model = load("stranger/core", sessions=["a-1-1"])
commit = api.model_info("stranger/core").sha
model.push_to_hub("lab/m")
first = get("lab/m").read_text()
assert metadata_load(get("lab/m"))["base_model"] == "stranger/core" and f"at commit `{commit}`" in first
assert "license" not in metadata_load(get("lab/m")), "the licence of their weights is theirs to say"
model.push_to_hub("lab/m")
assert get("lab/m").read_text() == first
later = load("lab/m", sessions="all")
later.add_session("n-1-1", n_neurons=3, animal_id="n")
later.push_to_hub("lab/m")
metadata = metadata_load(get("lab/m"))
assert metadata["base_model"] == "stranger/core" and "license" not in metadata
assert f"at commit `{commit}`" in get("lab/m").read_text()
model.save_pretrained("folder")
load("folder", sessions="all").save_pretrained("folder")
metadata = metadata_load("folder/README.md")
assert metadata["base_model"] == "lab/m" and "license" not in metadata

tiny = load("omnimouse-tiny")
tiny.add_session("n-1-1", n_neurons=3, animal_id="n")
for _ in range(2):
    tiny.push_to_hub("lab/tiny", license="cc-by-4.0", tags=["more"])
    assert "Started from `omnimouse-tiny`." in get("lab/tiny").read_text()
load("lab/tiny").push_to_hub("lab/tiny", sessions=[])
metadata = metadata_load(get("lab/tiny"))
assert metadata["license"] == "cc-by-4.0" and "more" in metadata["tags"]
fresh().push_to_hub("lab/fresh")
fresh().save_pretrained("told", training="Ten steps.", training_data="Two mice.", license="cc-by-4.0")
load("told", sessions="all").push_to_hub("lab/folder")
card = get("lab/folder").read_text()
assert "Ten steps." in card and "Two mice." in card and metadata_load(get("lab/folder"))["license"] == "cc-by-4.0"
load("lab/m").save_pretrained("unchanged")
assert "base_model_relation" not in metadata_load("unchanged/README.md"), "a copy is no fine-tune"
metadata = metadata_load(get("lab/fresh"))
assert "license" not in metadata and "base_model" not in metadata, "new weights are their owner's to license"

fresh().push_to_hub("lab/told", training={"steps": np.int64(500), "rate": np.float32(0.5)}, training_data="Two mice.")
for _ in range(2):
    card = get("lab/told").read_text()
    assert "steps: 500" in card and "rate: 0.5" in card and "Two mice." in card
    load("lab/told", sessions=["a-1-1"]).push_to_hub("lab/told")
""")
