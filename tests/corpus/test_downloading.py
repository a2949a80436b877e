"""The authors' corpus: choosing sessions, listing them offline, and downloading them from the loopback Hub."""

from __future__ import annotations

import errno
import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import constants
from loopback_hub import reading

from omnimouse import open_recording, simulate_recording
from omnimouse.cli.main import main
from omnimouse.corpus import download_plan, downloading, tar_files
from omnimouse.corpus.download_plan import WORK_FOLDER, plan_download, size_text
from omnimouse.corpus.downloading import download_sessions
from omnimouse.corpus.manifest import CORPUS_REPO, choose_sessions, collection, corpus_sessions, filter_sessions
from omnimouse.corpus.tar_files import extract_tar

NAMES = [session.published_key for session in corpus_sessions()[:4]]
KEYS = [session.key for session in corpus_sessions()[:4]]
FILES = {"meta.json": b"{}", "screen/data/00000.npy": bytes(5000), "responses/data.npy": b"r" * 3000}
"""The parts of a session folder by which it is known; no recording."""


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def pack(*members, **options) -> bytes:
    """A tar of (name or TarInfo, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for info, content in members:
            info = member(info) if isinstance(info, str) else info
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def session_tar(name, files=FILES, *more) -> bytes:
    return pack(*((f"{name}/{path}", content) for path, content in files.items()), *more)


def tree(folder: Path, *hidden: str) -> dict[str, bytes | None]:
    """Everything below a folder, with the content of files; not what lies in folders of these names."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not set(path.relative_to(folder).parts) & set(hidden)
    }


def made(folder: Path) -> list[str]:
    """What a user sees in the target."""
    return sorted(path.name for path in folder.iterdir() if path.name != WORK_FOLDER)


@pytest.fixture
def hub(loopback_hub, tmp_path, monkeypatch):
    """A hub which this process takes for the Hub, logged in as `lab`."""
    template = loopback_hub.url + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", loopback_hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(downloading, "RETRY_SECONDS", 0)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    return loopback_hub


@pytest.fixture
def target(tmp_path):
    """Where to download to, not there yet; beside it lies something that must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "keep").write_bytes(b"mine")
    return tmp_path / "nest" / "data"


def publish(hub, tars: dict[str, bytes | Path], **options):
    files = {f"experiments/{name}.tar": content for name, content in tars.items()} | {"download_dataset.py": b"exit(1)"}
    return hub.add_repo(CORPUS_REPO, files, repo_type="dataset", gated=True, granted={"lab"}, **options)


def get(what, folder, **options):
    return download_sessions(what, folder, progress=False, **options)


# Choosing and listing.


def test_sessions_are_chosen_by_keys_globs_and_collections():
    names = [session.published_key for session in corpus_sessions()]

    def chosen(*what):
        found, missing = choose_sessions(what, names, "The corpus")
        return [name.removeprefix("dynamic").partition("-Video")[0] for name in found], missing

    assert chosen(KEYS[1], NAMES[0]) == ([KEYS[1], KEYS[0]], [])
    assert chosen("*") == ([session.key for session in corpus_sessions()], [])
    mice = [session.key for session in corpus_sessions() if session.animal_id == "17797"]
    assert len(mice) > 3 and chosen("17797-*") == chosen("dynamic17797-*_30hz") == chosen("17797-*", KEYS[0]) == (
        mice,
        [],
    )
    found, missing = chosen("scaling_laws_8")
    assert missing == ["26872-17-20", "27204-5-13"]
    assert found == [key for key in collection("scaling_laws_8") if key not in missing]
    for what, parts in {
        "17797-4-9": "no session '17797-4-9'.*did you mean 17797-4-7.*scaling_laws_8",
        "scaling_law_8": "did you mean scaling_laws_8",
        "no*": "no session 'no\\*'",
    }.items():
        with pytest.raises(ValueError, match=parts):
            chosen(what)
    with pytest.raises(ValueError, match="No sessions are asked for"):
        chosen()


def test_sessions_are_filtered():
    sessions = corpus_sessions()
    assert filter_sessions(sessions) == list(sessions)
    some = filter_sessions(sessions, animals=["dynamic17797", "29156"], min_neurons=8000, max_neurons=8500)
    assert some and {session.animal_id for session in some} <= {"17797", "29156"}
    assert all(8000 <= session.n_neurons <= 8500 for session in some)
    n_neurons = some[0].n_neurons  # both bounds are inclusive
    assert filter_sessions(some[:1], min_neurons=n_neurons, max_neurons=n_neurons) == some[:1]
    assert not filter_sessions(some[:1], min_neurons=n_neurons + 1)
    assert not filter_sessions(some[:1], max_neurons=n_neurons - 1)
    assert {"image", "video"} <= set.intersection(
        *(set(session.modalities) for session in filter_sessions(sessions, modalities=["Image", "video"]))
    )
    assert len(filter_sessions(sessions, modalities=["invalid"])) == 14
    for options in ({"animals": ["1"]}, {"modalities": ["smell"]}):
        with pytest.raises(ValueError, match="The corpus has no"):
            filter_sessions(sessions, **options)


def test_list_shows_sessions_and_totals_offline(capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 335 and lines[1].split()[:3] == ["17797-4-7", "17797", "7,493"]
    assert lines[-1] == "333 sessions of 73 animals, 2,336,848 neurons in all, 566.9 hours"
    assert main(["list", "--collection", "scaling_laws_8", "17797-4-7", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["totals"]["sessions"] == len(report["sessions"]) == 7
    assert report["not_in_manifest"] == ["26872-17-20", "27204-5-13"]
    assert main(["list", "--animal", "17797", "--max-neurons", "7500", "--modality", "video"]) == 0
    assert capsys.readouterr().out.count("17797-") >= 1
    assert main(["list", "sensorium_2023_test_set"]) == 0
    out = capsys.readouterr().out
    assert "0 sessions of 0 animals" in out and "Not in the manifest" in out and "29515-10-12" in out
    assert main(["list", "--collection", "17797-4-7"]) == 2
    assert "no collection '17797-4-7'" in capsys.readouterr().err


# Downloading what is sound.


def test_a_download_becomes_a_recording_and_is_not_done_twice(hub, target, tmp_path):
    simulate_recording(tmp_path / "mouse", 1, n_neurons=4, minutes=1.0)
    with tarfile.open(tmp_path / "mouse.tar", "w") as tar:
        tar.add(tmp_path / "mouse", NAMES[0])
    commit = publish(
        hub, {NAMES[0]: tmp_path / "mouse.tar", NAMES[1]: session_tar(NAMES[1]), "other-1-1": b"\0" * 2048}
    )
    result = get(NAMES[0], target)
    assert (result.repo, result.commit, result.downloaded) == (CORPUS_REPO, commit, (target / NAMES[0],))
    assert not (result.present or result.failed or result.missing)
    assert result.n_bytes == (tmp_path / "mouse.tar").stat().st_size
    assert tree(target / NAMES[0]) == tree(tmp_path / "mouse") and tree(target, NAMES[0]) == {}
    mouse, original = open_recording(target / NAMES[0]), open_recording(tmp_path / "mouse")
    assert mouse.n_neurons == original.n_neurons == 4 and mouse.tiers == original.tiers
    hub.clear_log()
    again = get(KEYS[:1], target)
    assert (again.downloaded, again.present, again.n_bytes) == ((), (target / NAMES[0],), 0)
    both = get("1779*", target)
    assert (both.downloaded, both.present) == ((target / NAMES[1],), (target / NAMES[0],))
    assert [entry.path.rpartition("/")[2] for entry in hub.requests("GET", "/resolve/")] == [f"{NAMES[1]}.tar"]


def test_counts_follow_the_manifest_and_collections_say_what_is_missing(hub, target):
    publish(hub, {name: session_tar(name) for name in ["a-1-1", *reversed(NAMES)]})
    assert [session.key for session in plan_download("*", target).sessions] == [*KEYS, "a-1-1"]
    assert [session.key for session in plan_download(2, target).sessions] == KEYS[:2]
    assert [session.key for session in plan_download("*", target, count=3).sessions] == KEYS[:3]
    assert [path.name for path in get(1, target).downloaded] == NAMES[:1]
    plan = plan_download(2, target)
    assert [path.name for path in plan.present] == NAMES[:1] and [s.name for s in plan.sessions] == NAMES[1:2]
    plan = plan_download("pretraining_316", target)
    assert len(plan.sessions) + len(plan.present) == 4 and len(plan.missing) == 312
    for options, text in (({"count": 0}, "1 or more"), ({"workers": 0}, "0 workers")):
        with pytest.raises(ValueError, match=text):
            plan_download("*", target, **options)
    with pytest.raises(ValueError, match=f"{CORPUS_REPO} has no session 'b-1-1'"):
        plan_download(["b-1-1"], target)


def test_sizes_are_known_before(hub, target, monkeypatch):
    tars = {name: session_tar(name, FILES | {"more": bytes(10_000 * i)}) for i, name in enumerate(NAMES)}
    publish(hub, tars)
    sizes = [len(tars[name]) for name in NAMES]
    plan = plan_download("*", target, workers=2)
    assert [session.n_bytes for session in plan.sessions] == sizes and plan.n_bytes == sum(sizes)
    assert plan.needed_bytes == sum(sizes) + sum(sorted(sizes)[-2:])
    assert plan_download("*", target, keep_tars=True).needed_bytes == 2 * sum(sizes)
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(download_plan.shutil, "disk_usage", lambda _: usage._replace(free=sum(sizes)))
    with pytest.raises(OSError, match=r"4 sessions need .* and only .* are free") as error:
        get("*", target)
    assert size_text(sum(sizes)) in str(error.value)
    assert not target.parent.exists() and not hub.requests("GET", "/resolve/")
    assert len(get(KEYS[0], target).downloaded) == 1
    assert [size_text(n) for n in (999, 1000, 71_340_000_000, 999_900)] == ["999 bytes", "1 kB", "71.3 GB", "1 MB"]


def test_tars_can_be_kept_and_folders_in_other_places_are_found(hub, target):
    tars = {
        NAMES[0]: session_tar("."),
        NAMES[1]: session_tar("experiments/" + NAMES[1], FILES, ("__MACOSX/._x", b"x")),
        NAMES[2]: pack(("notes/x", b""), ("more/x", b"")),
    }
    publish(hub, tars)
    result = get("*", target, keep_tars=True)
    assert list(result.failed) == [NAMES[2]] and "holds no session folder" in result.failed[NAMES[2]]
    assert made(target) == sorted([NAMES[0], f"{NAMES[0]}.tar", NAMES[1], f"{NAMES[1]}.tar"])
    for name in NAMES[:2]:
        assert tree(target / name) == tree(target / NAMES[0]) and (target / f"{name}.tar").read_bytes() == tars[name]
    shutil.rmtree(target / NAMES[0])
    (target / NAMES[2]).write_bytes(b"mine")
    result = get("*", target, keep_tars=True)
    assert result.failed.keys() == {NAMES[0], NAMES[2]} and all("move it away" in why for why in result.failed.values())
    assert (target / NAMES[2]).read_bytes() == b"mine"


def test_files_that_are_not_large_are_compared_with_their_git_hash(hub, target):
    hub.mode = "regular"
    publish(hub, {NAMES[0]: session_tar(NAMES[0])})
    assert len(plan_download("*", target).sessions[0].checksum) == 40
    assert [path.name for path in get("*", target).downloaded] == NAMES[:1]


# Interrupted.


def test_an_interrupted_transfer_goes_on_where_it_was(hub, target, monkeypatch):
    tars = {name: session_tar(name, FILES | {"large": bytes(range(256)) * 20_000}) for name in NAMES[:2]}
    size = len(tars[NAMES[0]])
    publish(hub, tars)
    # Dropped once, it goes on by itself.
    hub.faults.drop_download(f"experiments/{NAMES[1]}.tar", 2_000_000)
    result = get(KEYS[1], target)
    assert len(result.downloaded) == 1 and result.n_bytes == size
    # Dropped again and again, it is given up, and the next command goes on.
    monkeypatch.setattr(downloading, "RETRIES", 0)
    monkeypatch.setattr(downloading, "CHUNK", 1 << 14)  # some of it arrives, however slow this machine is
    hub.faults.drop_download(f"experiments/{NAMES[0]}.tar", 3_000_000)
    first = get(KEYS[:2], target)
    assert list(first.failed) == [NAMES[0]] and made(target) == [NAMES[1]]
    assert 0 < first.n_bytes <= 3_000_000
    assert plan_download(KEYS[0], target).fetched_bytes == first.n_bytes
    second = get(KEYS[:2], target)
    assert second.n_bytes == size - first.n_bytes and not second.failed
    assert tree(target, *NAMES) == {} and tree(target / NAMES[0]) == tree(target / NAMES[1])


def test_a_server_that_begins_anew_is_followed(hub, target, monkeypatch):
    tar = session_tar(NAMES[0], FILES | {"large": bytes(range(256)) * 20_000})
    publish(hub, {NAMES[0]: tar})
    reply = reading.file_reply
    monkeypatch.setattr(reading, "file_reply", lambda blob, headers, asked: reply(blob, headers, None))
    hub.faults.drop_download(f"experiments/{NAMES[0]}.tar", 2_000_000)
    assert len(get("*", target).downloaded) == 1


def test_what_a_killed_process_left_behind_is_used_or_removed(hub, target):
    tars = {name: session_tar(name) for name in NAMES[:3]}
    publish(hub, tars)
    work, places = target / WORK_FOLDER, {}
    for session in plan_download("*", target).sessions:
        places[session.name] = download_plan.tar_place(target, session)
    (work / f"{NAMES[0]}.partial" / NAMES[0] / "screen").mkdir(parents=True)
    (work / f"{NAMES[0]}.0123456789abcdef.tar").write_bytes(b"another version")
    (work / "lock").touch()
    places[NAMES[0]].write_bytes(tars[NAMES[0]][:7000])
    places[NAMES[1]].write_bytes(tars[NAMES[1]])
    places[NAMES[2]].write_bytes(b"x" * 7000)
    result = get("*", target)
    assert result.n_bytes == sum(map(len, tars.values())) - 14_000 - len(tars[NAMES[1]])
    assert list(result.failed) == [NAMES[2]] and "arrived damaged" in result.failed[NAMES[2]]
    assert made(target) == NAMES[:2] and tree(target, *NAMES) == {}
    assert get("*", target).downloaded == (target / NAMES[2],)


def test_ctrl_c_leaves_nothing_that_looks_whole(hub, target, monkeypatch):
    publish(hub, {name: session_tar(name, FILES | {"large": bytes(5_000_000)}) for name in NAMES})

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloading, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get("*", target)
    for name in made(target) if target.exists() else ():
        assert (target / name / "large").stat().st_size == 5_000_000
    get("*", target)
    assert made(target) == NAMES and tree(target, *NAMES) == {}


def test_two_downloads_into_one_folder_do_not_meet(hub, target):
    publish(hub, {NAMES[0]: session_tar(NAMES[0])})
    (target / WORK_FOLDER).mkdir(parents=True)
    with FileLock(target / WORK_FOLDER / "lock"), pytest.raises(OSError, match="Another download goes on"):
        get("*", target)
    assert made(target) == [] and len(get("*", target).downloaded) == 1


# Full disks, closed gates, and repos that are something else.


def test_a_full_disk_ends_the_download_and_leaves_nothing_half(hub, target, monkeypatch):
    tars = {name: session_tar(name) for name in NAMES[:2]}
    publish(hub, tars)
    copy, copied = tar_files._copy, []

    def full(archive, info, place, check_stop):
        copied.append(info.name)
        if len(copied) == 5:  # in the midst of the second session
            place.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(archive, info, place, check_stop)

    with monkeypatch.context() as patch:
        patch.setattr(tar_files, "_copy", full)
        with pytest.raises(OSError, match=r"is full \(No space.*1 of 2 sessions are whole.*goes on from there"):
            get("*", target, workers=1)
    assert made(target) == NAMES[:1]
    assert [path.suffix for path in (target / WORK_FOLDER).iterdir() if path.name != "lock"] == [".tar"]
    result = get("*", target)
    assert result.n_bytes == 0 and result.downloaded == (target / NAMES[1],) and tree(target, *NAMES) == {}


def test_a_disk_that_fills_up_during_a_transfer_keeps_what_came(hub, target, monkeypatch):
    tar = session_tar(NAMES[0], FILES | {"large": bytes(range(256)) * 20_000})
    publish(hub, {NAMES[0]: tar})
    count = downloading._Job._count

    def full(job, n_bytes, **options):
        count(job, n_bytes, **options)
        if job.n_bytes > 2_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloading._Job, "_count", full)
        with pytest.raises(OSError, match="is full"):
            get("*", target)
    assert made(target) == []
    assert 0 < get("*", target).n_bytes < len(tar) - 2_000_000


@pytest.mark.parametrize("token", ["hf_stranger", None])
def test_a_closed_gate_is_explained(token, hub, target, tmp_path, monkeypatch, capsys):
    publish(hub, {name: session_tar(name) for name in NAMES})
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    before = tree(tmp_path, "loopback_hub")
    assert main(["download", "*", "--output", str(target)]) == 2
    error = capsys.readouterr().err
    assert (
        f"error: {CORPUS_REPO} is gated" in error
        and f"/datasets/{CORPUS_REPO}, then log in with `hf auth login`" in error
    )
    assert "0 of 4 sessions are whole" in error and "Traceback" not in error
    assert tree(tmp_path, "loopback_hub") == {**before, "nest": None}
    assert len(hub.requests("GET", "/resolve/")) <= 4


def test_repos_that_are_something_else_are_refused(hub, target, tmp_path):
    hub.add_repo("lab/empty", {"README.md": b""}, repo_type="dataset")
    hub.add_repo("lab/odd", {"experiments/..tar": b"", "experiments/a b.tar": b""}, repo_type="dataset")
    for repo, kind, text in (
        ("lab/empty", ValueError, "has no tar files in experiments/"),
        ("lab/odd", ValueError, "cannot be that of a session"),
        ("lab/none", OSError, "no dataset 'lab/none'"),
        ("lab/a/b", ValueError, "cannot be the name of a repo"),
    ):
        with pytest.raises(kind, match=text):
            get("*", target, repo=repo)
    with pytest.raises(OSError, match="has no revision 'v9'"):
        get("*", target, repo="lab/empty", revision="v9")
    (tmp_path / "session" / "screen").mkdir(parents=True)
    with pytest.raises(ValueError, match="is itself a session folder"):
        get("*", tmp_path / "session")
    with pytest.raises(ValueError, match="is a file"):
        get("*", tmp_path / "outside" / "keep" / "below")
    assert not target.parent.exists()


# Archives of strangers.


def damaged(tar: bytes, at: int, content: bytes) -> bytes:
    return tar[:at] + content + tar[at + len(content) :]


def with_size(tar: bytes, size: bytes) -> bytes:
    """A tar whose first header claims another size, in 12 bytes, and is otherwise sound."""
    header = bytearray(tar[:512])
    header[124:136], header[148:156] = size, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar[512:]


def bad_tars(outside: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> a tar that looks like a session but for one thing, and what is said of it."""
    good = session_tar("s")
    sparse = pack((member("s/sparse", tarfile.GNUTYPE_SPARSE), b""))
    sparse = with_size(damaged(sparse, 483, b"%011o\0" % (1 << 40)), b"0" * 12)

    def plus(*more, **options):
        return pack(*((f"s/{name}", content) for name, content in FILES.items()), *more, **options)

    through = (member("s/link", tarfile.SYMTYPE, str(outside)), b""), ("s/link/keep", b"evil")
    return {
        "up": (plus(("s/../../../evil", b"evil")), "leads out of the folder"),
        "far-up": (plus(("../" * 20 + str(outside)[1:] + "/keep", b"evil")), "leads out of the folder"),
        "absolute": (plus((f"{outside}/keep", b"evil")), "leads out of the folder"),
        "absolute-folder": (plus((member(f"{outside}/new", tarfile.DIRTYPE), b"")), "leads out of the folder"),
        "symbolic-link": (plus(*through), "'s/link' is a link"),
        "hard-link": (plus((member("s/link", tarfile.LNKTYPE, str(outside / "keep")), b"")), "is a link"),
        "inner-link": (plus((member("s/link", tarfile.SYMTYPE, "meta.json"), b"")), "is a link"),
        "device": (plus((member("s/null", tarfile.CHRTYPE), b"")), "neither a plain file nor a folder"),
        "pipe": (plus((member("s/pipe", tarfile.FIFOTYPE), b"")), "neither a plain file nor a folder"),
        "sparse": (sparse, "neither a plain file nor a folder|damaged"),
        "twice": (plus(("s/./meta.json", b"{1}")), "is in it twice"),
        "file-over-folder": (plus(("s/screen", b"")), "is in it twice"),
        "file-as-folder": (plus(("s/meta.json/x", b"")), "needs a folder where the archive has a file"),
        "backslash": (plus(("s\\..\\..\\evil", b"")), "is no name for a file"),
        "drive": (plus(("C:evil", b"")), "is no name for a file"),
        "long-name": (plus(("s/" + "n" * 3000, b"")), "is no name for a file"),
        "large-header": (plus(("s/" + "n/" * 600_000, b""), format=tarfile.PAX_FORMAT), "claims .* bytes"),
        "negative": (with_size(good, b"\xff" * 12), "claims -"),
        "too-large": (with_size(good, b"77777777777\0"), "cut off"),
        "bad-header": (damaged(good, 1024 + 100, b"?"), "no member follows"),
        "cut-in-a-file": (good[:4000], "cut off"),
        "cut-in-a-header": (good[:1124], "no member follows|cut off"),
        "cut-between": (good[:1024], "its end is missing"),
        "tail": (good + b"x" * 512, "no member follows"),
        "empty": (b"", "empty file"),
        "zeros": (bytes(10_240), "it holds no files"),
        "text": (b"version https://git-lfs.github.com/spec/v1\n" * 20, "refused"),
        "compressed": (gzip.compress(good), "refused"),
    }


def test_bad_archives_fail_alone_and_touch_nothing(hub, target, tmp_path):
    bad = bad_tars(tmp_path / "outside")
    publish(hub, {name: tar for name, (tar, _) in bad.items()} | {NAMES[0]: session_tar(NAMES[0])})
    before = tree(tmp_path, "loopback_hub")
    result = get("*", target)
    assert result.downloaded == (target / NAMES[0],) and result.failed.keys() == bad.keys()
    for name, (_, text) in bad.items():
        with pytest.raises(ValueError, match=text):
            raise ValueError(result.failed[name])
        assert "Nothing of it was kept" in result.failed[name], name
    inside = {f"nest/data/{NAMES[0]}/{path}": content for path, content in tree(target / NAMES[0]).items()}
    assert {path: content for path, content in inside.items() if content is not None} == {
        f"nest/data/{NAMES[0]}/{path}": content for path, content in FILES.items()
    }
    folders = {"nest": None, "nest/data": None, f"nest/data/{NAMES[0]}": None}
    assert tree(tmp_path, "loopback_hub") == before | folders | inside


def test_a_tar_that_changed_on_the_way_is_not_unpacked(hub, target, tmp_path):
    tar = session_tar(NAMES[0])
    (tmp_path / "served.tar").write_bytes(tar)
    publish(hub, {NAMES[0]: tmp_path / "served.tar"})
    plan_download("*", target)  # the hub hashes it now
    (tmp_path / "served.tar").write_bytes(damaged(tar, 1600, b"!"))  # in the content of a file
    result = get("*", target)
    assert "arrived damaged" in result.failed[NAMES[0]] and "Give the command again" in result.failed[NAMES[0]]
    assert not target.exists()
    (tmp_path / "served.tar").write_bytes(tar)
    assert len(get("*", target).downloaded) == 1


def test_extraction_ignores_permissions_and_never_adds_to_a_folder(tmp_path):
    strange = member("s/meta.json")
    strange.mode, strange.uid = 0o4777, 0
    (tmp_path / "t.tar").write_bytes(pack((strange, b"{}"), (member("s/empty", tarfile.DIRTYPE), b"")))
    extract_tar(tmp_path / "t.tar", tmp_path / "new")
    assert tree(tmp_path / "new") == {"s": None, "s/meta.json": b"{}", "s/empty": None}
    (tmp_path / "plain").touch()
    assert (tmp_path / "new/s/meta.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(FileExistsError):
        extract_tar(tmp_path / "t.tar", tmp_path / "new")
    assert len(tree(tmp_path / "new")) == 3


# The command.


def test_the_command_shows_sizes_downloads_and_lists_failures(hub, target, capsys):
    tars = {NAMES[0]: session_tar(NAMES[0]), NAMES[1]: b"no tar" * 100, NAMES[2]: session_tar(NAMES[2])}
    publish(hub, tars)
    output = ["--output", str(target)]

    def run(*argv):
        status = main(["download", *argv, *output])
        return status, *capsys.readouterr()

    status, out, _ = run("*", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0 and plan["bytes"] == sum(map(len, tars.values())) and plan["free_bytes"] > 0
    assert [session["key"] for session in plan["sessions"]] == KEYS[:3] and not target.exists()
    status, out, _ = run("scaling_laws_64", KEYS[0], "--dry-run")
    assert status == 0 and NAMES[0] in out and "to download into" in out and "Not in the dataset: " in out
    status, out, err = run("--count", "2", "--json")
    report = json.loads(out)
    assert status == 2 and report["downloaded"] == [str(target / NAMES[0])] and list(report["failed"]) == [NAMES[1]]
    assert f"omnimouse: error: {NAMES[1]}: " in err and "sessions, " in err and "of free space" in err
    status, out, err = run(KEYS[0], KEYS[2], "--workers", "1")
    assert status == 0 and f"Wrote {target / NAMES[2]}" in out
    assert "1 sessions downloaded, 1 were there already, 0 failed" in out
    status, _, err = run()
    assert status == 2 and "no sessions are asked for" in err
    status, _, err = run("--collection", KEYS[0])
    assert status == 2 and f"no collection '{KEYS[0]}'" in err
