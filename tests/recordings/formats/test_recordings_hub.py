"""Recordings on the Hub: pushed beside others, opened lazily from the cache, bit for bit; refusals say what to do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from small_models import client

SESSIONS = Path(__file__).parents[2] / "data" / "recordings"

PREPARED = """
import datasets
import numpy as np
from omnimouse import Windows, open_recording
from omnimouse.recordings import check_recording

datasets.disable_progress_bars()
one, two = (open_recording(Path(os.environ["SESSIONS"], key)) for key in ("17797-4-7", "22083-2-19"))

def same(found, expected):
    cut = [Windows(recording, "train", 20, quiet=True) for recording in (found, expected)]
    return len(cut[0]) and cut[0].starts.tobytes() == cut[1].starts.tobytes() and all(
        ours[name].numpy().tobytes() == theirs[name].numpy().tobytes()
        for ours, theirs in zip(*cut, strict=True) for name in theirs
    )

def files(repo, **options):
    return api.list_repo_files(repo, repo_type="dataset", **options)
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    for key in ("17797-4-7", "22083-2-19"):
        with zipfile.ZipFile(SESSIONS / f"session_{key}.zip") as archive:
            archive.extractall(folder)
    for place in list(folder.iterdir()):
        scan = json.loads((place / "meta.json").read_text())["scan_key"]
        place.rename(folder / f"{scan['animal_id']}-{scan['session']}-{scan['scan_idx']}")
    return folder


@pytest.mark.parametrize("mode", ["lfs", "xet"])
def test_what_was_pushed_comes_back_bit_for_bit_beside_what_was_there(mode, sessions, tmp_path):
    with LoopbackHub(tmp_path / "hub", mode=mode) as hub:
        client(
            hub,
            PREPARED
            + """
first = one.push_to_hub("lab/mice", private=True, commit_message="The first")
assert api.dataset_info("lab/mice").private
assert same(open_recording("lab/mice"), one)
card = Path("README.md")
card.write_text(Path(api.hf_hub_download("lab/mice", "README.md", repo_type="dataset")).read_text() + "Mine.")
api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="lab/mice", repo_type="dataset")

# One that is in the form already is pushed as it lies there.
two.to_dataset("written")
stored = open_recording("written")
second = stored.push_to_hub("lab/mice")
assert stored.push_to_hub("lab/mice").oid == second.oid, "nothing changed, so there is no new commit"
text = Path(api.hf_hub_download("lab/mice", "README.md", repo_type="dataset")).read_text()
assert text.endswith("Mine.") and "22083-2-19/recording.arrow" in text and "17797-4-7/screen.arrow" in text
assert "lab/mice" in text and os.environ["SESSIONS"] not in text

refused(ValueError, lambda: open_recording("lab/mice"), "there are 2", "17797-4-7, 22083-2-19", "session=")
refused(ValueError, lambda: open_recording("lab/mice", session="1-1-1"), "'1-1-1'", "17797-4-7, 22083-2-19")
control("", action="clear_log")
found = open_recording("lab/mice", session="22083-2-19", cache_dir="empty")
assert same(found, two) and found.path.parent.name == second.oid
assert same(open_recording("lab/mice", session="17797-4-7", revision=first.oid), one)
refused(ValueError, lambda: open_recording("lab/mice", session="22083-2-19", revision=first.oid), "'22083-2-19'")
assert same(open_recording("lab/mice", session="22083-2-19", cache_dir="empty", local_files_only=True), two)

rows = datasets.load_dataset("lab/mice", "17797-4-7", split="recording")
one.to_dataset("one")
assert rows[700] == datasets.Dataset.from_file("one/17797-4-7/recording.arrow")[700]
trials = datasets.load_dataset("lab/mice", "22083-2-19.trials", split="recording")
assert trials["tier"][:] == [trial.tier for trial in two.trials]
""",
            tmp_path / "home",
            token="hf_write",
            SESSIONS=str(sessions),
        )
        assert not hub.errors(), hub.errors()


def test_only_the_session_that_is_asked_for_travels_and_refusals_say_what_to_do(loopback_hub, sessions, tmp_path):
    client(
        loopback_hub,
        PREPARED
        + """
one.push_to_hub("lab/mice")
two.push_to_hub("lab/mice", revision="more")
fetched()
open_recording("lab/mice", "22083-2-19", revision="more", cache_dir="other")
asked = [name for name in files("lab/mice", revision="more") if name.startswith("22083-2-19/")]
assert fetched() == ["17797-4-7/recording.json", *asked]

refused(OSError, lambda: open_recording("lab/nothing"), "There is no folder 'lab/nothing'", "no dataset 'lab/nothing'")
(finding,) = check_recording("lab/nothing")
assert finding.severity == "fatal" and "no dataset 'lab/nothing'" in finding.found
assert all(finding.severity == "info" for finding in check_recording("lab/mice"))
refused(OSError, lambda: open_recording("lab/mice", revision="v9"), "no revision 'v9'")
refused(OSError, lambda: open_recording("lab/mice", cache_dir="empty", local_files_only=True), "not in the cache")
api.create_repo("lab/tars", repo_type="dataset")
refused(ValueError, lambda: open_recording("lab/tars"), "recordings in the `datasets` form", "omnimouse download")
refused(ValueError, lambda: one.push_to_hub("lab/mice", licence="x"), "unknown arguments licence", "private, token")
refused(OSError, lambda: one.push_to_hub("stranger/mice"), "stranger/mice")
Path("lab").mkdir()
refused(ValueError, lambda: open_recording("lab/mice"), "found nothing. Check the path")

# What `datasets` itself pushes are the rows alone, which people who know only that can use.
rows = one.to_dataset("out")
rows.push_to_hub("lab/rows", config_name="17797-4-7")
assert datasets.load_dataset("lab/rows", "17797-4-7", split="recording")[700] == rows[700]
Path("lab").rmdir()
refused(ValueError, lambda: open_recording("lab/rows"), "recording.push_to_hub")
""",
        tmp_path / "home",
        token="hf_write",
        SESSIONS=str(sessions),
    )
