"""The loopback hub against the real `huggingface_hub` client."""

from __future__ import annotations

import hashlib
import random
import textwrap

import pytest
from loopback_hub import LoopbackHub

# `raises` also looks at the status: most refusals of the client share one class.
PROLOGUE = """
import io, json, os
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi, hf_hub_download, snapshot_download
from huggingface_hub import errors

api = HfApi()

def raises(kind, status, call):
    try:
        call()
    except kind as error:
        got = error.response.status_code if hasattr(error, "response") else None
        assert type(error) is kind and got == status, (type(error), got, str(error))
        return str(error)
    raise AssertionError(f"no {kind.__name__}")

"""


def run(hub, code, **options):
    return hub.run(PROLOGUE + textwrap.dedent(code), **options)


def content(seed, size):
    return random.Random(seed).randbytes(size)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    """A model as a folder: a card, a config, and two files that are large by their name."""
    folder = tmp_path / "model"
    (folder / "sessions").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [mouse]\n---\n# A model\n")
    (folder / "config.json").write_text('{"width": 8}')
    (folder / "model.safetensors").write_bytes(content(1, 300_000))
    (folder / "sessions" / "a b.safetensors").write_bytes(content(2, 200_000))
    return folder


def test_accounts_and_repositories(loopback_hub, home):
    loopback_hub.organizations["institute"] = {"lab"}
    run(
        loopback_hub,
        """
        who = api.whoami()
        assert (who["name"], [org["name"] for org in who["orgs"]]) == ("lab", ["institute"])
        assert who["auth"]["accessToken"]["role"] == "write"
        assert api.whoami(token="hf_read")["auth"]["accessToken"]["role"] == "read"

        url = api.create_repo("lab/m")
        assert (url.repo_id, url.repo_type) == ("lab/m", "model")
        raises(errors.HfHubHTTPError, 409, lambda: api.create_repo("lab/m"))
        assert api.create_repo("m", exist_ok=True) == url
        assert api.create_repo("institute/d", repo_type="dataset").repo_type == "dataset"
        raises(errors.HfHubHTTPError, 403, lambda: api.create_repo("elsewhere/m"))
        assert api.list_repo_files("lab/m") == [".gitattributes"]

        api.create_repo("lab/hidden", private=True)
        assert api.model_info("lab/hidden").private
        assert [model.id for model in api.list_models(author="lab", token=False)] == ["lab/m"]
        assert {model.id for model in api.list_models()} == {"lab/m", "lab/hidden"}
        api.update_repo_settings("lab/hidden", visibility="public")
        assert not api.model_info("lab/hidden", token=False).private

        assert api.repo_exists("institute/d", repo_type="dataset") and not api.repo_exists("institute/d")
        api.delete_repo("lab/m")
        raises(errors.RepositoryNotFoundError, 404, lambda: api.delete_repo("lab/m"))
        api.delete_repo("lab/m", missing_ok=True)
        """,
        home=home,
        token="hf_write",
    )
    assert set(loopback_hub.repositories) == {("dataset", "institute/d"), ("model", "lab/hidden")}


@pytest.mark.parametrize("mode", ["lfs", "regular", "xet"])
def test_uploads_come_back(tmp_path, home, folder, mode):
    with LoopbackHub(tmp_path / "hub", mode=mode) as hub:
        run(
            hub,
            f"""
            folder = Path({str(folder)!r})
            api.create_repo("lab/m")
            first = api.upload_folder(repo_id="lab/m", folder_path=folder, commit_message="all of it")
            again = api.upload_folder(repo_id="lab/m", folder_path=folder)
            assert again.oid == first.oid, "what is there already made a new commit"
            api.upload_file(repo_id="lab/m", path_or_fileobj=b"x" * 70_000, path_in_repo="more/x.safetensors")
            api.upload_file(repo_id="lab/m", path_or_fileobj=io.BytesIO(b"y" * 80_000), path_in_repo="more/y.bin")

            got = Path(snapshot_download("lab/m"))
            for path in ("README.md", "config.json", "model.safetensors", "sessions/a b.safetensors"):
                assert (got / path).read_bytes() == (folder / path).read_bytes(), path
            assert (got / "more/x.safetensors").read_bytes() == b"x" * 70_000
            some = Path(snapshot_download("lab/m", allow_patterns="sessions/*", local_dir="some"))
            assert [path.name for path in some.iterdir() if path.name != ".cache"] == ["sessions"]
            one = hf_hub_download("lab/m", "model.safetensors", revision=first.oid, local_dir="one")
            assert Path(one).read_bytes() == (folder / "model.safetensors").read_bytes()

            tree = {{item.path: item for item in api.list_repo_tree("lab/m", recursive=True, expand=True)}}
            assert {{"sessions", "sessions/a b.safetensors", "more"}} <= tree.keys()
            assert tree["model.safetensors"].size == 300_000
            assert tree["model.safetensors"].last_commit.title == "all of it"
            assert (tree["model.safetensors"].lfs is None) == ({mode!r} == "regular")
            assert (tree["model.safetensors"].xet_hash is None) == ({mode!r} != "xet")
            top = [item.path for item in api.list_repo_tree("lab/m")]
            assert "sessions" in top and "sessions/a b.safetensors" not in top
            inside = [item.path for item in api.list_repo_tree("lab/m", "sessions")]
            assert inside == ["sessions/a b.safetensors"]
            found = api.get_paths_info("lab/m", ["sessions", "config.json", "nowhere"])
            assert [item.path for item in found] == ["sessions", "config.json"]
            info = api.model_info("lab/m", files_metadata=True)
            assert info.card_data.license == "mit" and info.tags == ["mouse"]
            assert {{file.rfilename: file.size for file in info.siblings}}["config.json"] == 12

            api.create_commit("lab/m", [CommitOperationCopy("model.safetensors", "copy.safetensors"),
                                        CommitOperationCopy("config.json", "copy.json")], commit_message="copies")
            api.delete_file("config.json", "lab/m")
            api.delete_folder("more", "lab/m")
            assert api.list_repo_files("lab/m") == [".gitattributes", "README.md", "copy.json", "copy.safetensors",
                                                    "model.safetensors", "sessions/a b.safetensors"]
            titles = [commit.title for commit in api.list_repo_commits("lab/m")]
            assert titles[-2:] == ["all of it", "initial commit"] and len(titles) == 7
            raises(errors.RemoteEntryNotFoundError, 404, lambda: api.delete_file("config.json", "lab/m"))
            """,
            home=home,
            token="hf_write",
        )
        assert not hub.errors()
        puts, batches = hub.requests("PUT", "^/lfs/"), hub.requests("POST", "objects/batch")
        downloads = hub.requests("GET", "/resolve/.*/model.safetensors")
        # Through Xet only the file object goes by LFS, and the content of large files never comes from here.
        assert {"lfs": len(puts) == 4, "regular": not puts + batches, "xet": len(puts) == 1}[mode]
        assert bool(downloads) == (mode != "xet")
        assert bool(hub.requests("GET", "xet-write-token")) == (mode == "xet")
        assert hub.read("lab/m", "model.safetensors") == (folder / "model.safetensors").read_bytes()


def test_an_upload_through_xet_can_open_a_pull_request(tmp_path, home, folder):
    with LoopbackHub(tmp_path / "hub", mode="xet") as hub:
        first = hub.add_repo("lab/m", {"config.json": b"{}"})
        run(
            hub,
            f"""
            info = api.upload_folder(repo_id="lab/m", folder_path={str(folder)!r}, create_pr=True)
            assert info.pr_revision == "refs/pr/1"
            got = hf_hub_download("lab/m", "model.safetensors", revision="refs/pr/1")
            assert len(Path(got).read_bytes()) == 300_000
            """,
            home=home,
            token="hf_write",
        )
        # A client without Xet gets the same content over HTTP.
        run(
            hub,
            f"""
            got = hf_hub_download("lab/m", "model.safetensors", revision="refs/pr/1")
            assert Path(got).read_bytes() == Path({str(folder / "model.safetensors")!r}).read_bytes()
            """,
            home=home.with_name("other"),
            HF_HUB_DISABLE_XET="1",
        )
        assert len(hub.requests("GET", "/resolve/.*/model.safetensors")) == 1
        assert not hub.errors()
        assert hub.repo("lab/m").branches == {"main": first}


def test_branches_tags_and_pull_requests(loopback_hub, home):
    loopback_hub.add_repo("lab/m", {"config.json": b"{}", "model.safetensors": content(1, 1000)})
    run(
        loopback_hub,
        """
        main = api.model_info("lab/m").sha
        api.create_branch("lab/m", branch="try/this")
        raises(errors.HfHubHTTPError, 409, lambda: api.create_branch("lab/m", branch="try/this"))
        api.create_branch("lab/m", branch="try/this", exist_ok=True)
        api.create_tag("lab/m", tag="v1", tag_message="first")
        raises(errors.HfHubHTTPError, 409, lambda: api.create_tag("lab/m", tag="v1"))
        on_branch = api.upload_file(
            repo_id="lab/m", path_or_fileobj=b"[1]", path_in_repo="config.json", revision="try/this"
        )

        def read(revision, path="config.json"):
            return Path(hf_hub_download("lab/m", path, revision=revision)).read_bytes()

        assert (read("main"), read("v1"), read("try/this"), read(on_branch.oid)) == (b"{}", b"{}", b"[1]", b"[1]")

        # A stranger may propose, and go on adding to the proposal, but not write.
        proposed = api.upload_file(
            repo_id="lab/m", path_or_fileobj=b"new", path_in_repo="new.safetensors", create_pr=True, token="hf_stranger"
        )
        assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
        assert read("refs/pr/1", "new.safetensors") == b"new"
        assert "new.safetensors" not in api.list_repo_files("lab/m")
        api.upload_file(repo_id="lab/m", path_or_fileobj=b"newer", path_in_repo="new.safetensors",
                        revision="refs/pr/1", token="hf_stranger")
        assert read("refs/pr/1", "new.safetensors") == b"newer"
        raises(errors.HfHubHTTPError, 403, lambda: api.upload_file(
            repo_id="lab/m", path_or_fileobj=b"new", path_in_repo="new.txt", token="hf_stranger"))
        refs = api.list_repo_refs("lab/m", include_pull_requests=True)
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": main, "try/this": on_branch.oid}
        assert [(ref.ref, ref.target_commit) for ref in refs.tags] == [("refs/tags/v1", main)]
        assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1"]
        assert api.list_repo_refs("lab/m").pull_requests is None
        assert [pr.status for pr in api.get_repo_discussions("lab/m")] == ["draft"]

        # A parent that is no longer the tip.
        def commit(text):
            return api.create_commit(
                "lab/m", [CommitOperationAdd("a.txt", text)], commit_message="a", parent_commit=main)

        after = commit(b"a").oid
        assert "A commit has happened since" in raises(errors.HfHubHTTPError, 412, lambda: commit(b"b"))
        assert api.model_info("lab/m").sha == after

        api.merge_pull_request("lab/m", 1)
        assert read("main", "new.safetensors") == b"newer" and read("main", "a.txt") == b"a"
        api.delete_branch("lab/m", branch="try/this")
        api.delete_tag("lab/m", tag="v1")
        raises(errors.RevisionNotFoundError, 404, lambda: api.delete_tag("lab/m", tag="v1"))
        raises(errors.RevisionNotFoundError, 404, lambda: api.model_info("lab/m", revision="try/this"))
        """,
        home=home,
        token="hf_write",
    )


def test_refusals_are_the_exceptions_of_the_client(loopback_hub, home):
    files = {"config.json": b"{}", "sessions/a.json": b"{}"}
    loopback_hub.add_repo("lab/open", files)
    loopback_hub.add_repo("lab/hidden", files, private=True)
    loopback_hub.add_repo("lab/gated", files, gated=True, granted={"friend"})
    loopback_hub.tokens["hf_friend"] = "friend"
    run(
        loopback_hub,
        """
        def get(repo, path="config.json", **options):
            return hf_hub_download(repo, path, **options)

        missing, http = errors.RepositoryNotFoundError, errors.HfHubHTTPError
        raises(missing, 401, lambda: get("lab/none"))
        raises(missing, 404, lambda: get("lab/none", token="hf_write"))
        raises(missing, 401, lambda: api.model_info("no-such-folder"))
        raises(missing, 401, lambda: api.list_repo_files("lab/open", repo_type="dataset"))
        raises(missing, 401, lambda: get("lab/hidden"))
        raises(missing, 404, lambda: get("lab/hidden", token="hf_stranger"))
        raises(missing, 401, lambda: snapshot_download("lab/hidden"))
        get("lab/hidden", token="hf_read")

        raises(errors.GatedRepoError, 401, lambda: get("lab/gated"))
        assert "not in the authorized list" in raises(
            errors.GatedRepoError, 403, lambda: get("lab/gated", token="hf_stranger"))
        raises(errors.GatedRepoError, 403, lambda: api.auth_check("lab/gated", token="hf_stranger"))
        assert api.model_info("lab/gated").gated == "auto"
        get("lab/gated", token="hf_friend")
        get("lab/gated", "sessions/a.json", token="hf_write")

        raises(errors.RevisionNotFoundError, 404, lambda: get("lab/open", revision="nope"))
        raises(errors.RevisionNotFoundError, 404, lambda: snapshot_download("lab/open", revision="nope"))
        raises(errors.RemoteEntryNotFoundError, 404, lambda: get("lab/open", "nope.json"))
        raises(errors.RemoteEntryNotFoundError, 404, lambda: list(api.list_repo_tree("lab/open", "nope")))
        assert not api.file_exists("lab/open", "nope.json") and api.file_exists("lab/open", "config.json")

        for refused in (api.whoami, lambda **o: api.model_info("lab/open", **o), lambda **o: get("lab/open", **o)):
            assert "nvalid" in raises(http, 401, lambda: refused(token="hf_wrong"))

        def put(**options):
            return api.upload_file(repo_id="lab/open", path_or_fileobj=b"1", path_in_repo="1.bin", **options)

        raises(http, 401, lambda: put(token=False))
        raises(http, 403, lambda: put(token="hf_stranger"))
        assert "write token" in raises(http, 403, lambda: put(token="hf_read"))
        raises(http, 403, lambda: put(token="hf_read", create_pr=True))
        raises(http, 403, lambda: api.create_repo("lab/new", token="hf_read"))
        raises(http, 403, lambda: api.delete_repo("lab/open", token="hf_stranger"))
        raises(errors.RevisionNotFoundError, 404, lambda: put(token="hf_write", revision="nope"))

        def card(text):
            return api.upload_file(
                repo_id="lab/open", path_or_fileobj=text, path_in_repo="README.md", token="hf_write")

        assert "no YAML" in raises(ValueError, None, lambda: card(b"---\\nlicense: [mit\\n---\\n"))
        assert "must be a mapping" in raises(ValueError, None, lambda: card(b"---\\n- mit\\n---\\n"))
        assert "README.md" not in api.list_repo_files("lab/open")
        """,
        home=home,
    )


def test_a_broken_upload_is_taken_up_where_it_broke(loopback_hub, home, tmp_path):
    sent = {name: content(name, 400_000) for name in ("a", "b", "c")}
    (tmp_path / "sent").mkdir()
    for name, data in sent.items():
        (tmp_path / "sent" / f"{name}.safetensors").write_bytes(data)
    loopback_hub.add_repo("lab/m")
    upload = f'api.upload_folder(repo_id="lab/m", folder_path={str(tmp_path / "sent")!r})'

    loopback_hub.faults.answer(400, method="PUT", path=sha256(sent["b"]))
    broken = run(loopback_hub, upload, home=home, token="hf_write", check=False)
    assert broken.returncode != 0 and "an injected fault" in broken.stderr
    assert loopback_hub.paths("lab/m") == []
    loopback_hub.clear_log()
    loopback_hub.faults.drop_upload(100_000)
    run(loopback_hub, upload, home=home, token="hf_write")
    # What arrived of this one is lost, as it is on the real Hub. The other two travel at the same time, so that each is
    # there already or was given up with it.
    uploaded = dict(loopback_hub.uploaded)
    assert uploaded.pop(sha256(sent["b"])) == 100_000 + 400_000
    assert set(uploaded) <= {sha256(sent["a"]), sha256(sent["c"])} and set(uploaded.values()) <= {400_000}
    assert [entry.status for entry in loopback_hub.requests("PUT")] == [None, 200]
    assert {path: loopback_hub.read("lab/m", path) for path in loopback_hub.paths("lab/m")} == {
        f"{name}.safetensors": data for name, data in sent.items()
    }


def test_a_broken_download_is_taken_up_where_it_broke(loopback_hub, home):
    # The client writes, and so resumes, in steps of 10 MB.
    data = content(1, 21_000_000)
    loopback_hub.add_repo("lab/m", {"config.json": b"{}", "model.safetensors": data})
    loopback_hub.faults.drop_download("model.safetensors", 15_000_000)
    # A HEAD that fails once is asked again; so is the listing; a GET is when the server is busy.
    loopback_hub.faults.answer(503, method="HEAD", path="config.json")
    loopback_hub.faults.answer(500, method="GET", path="/tree/")
    loopback_hub.faults.answer(429, method="GET", path="config.json", retry_after=0)
    done = run(
        loopback_hub,
        f"""
        got = Path(snapshot_download("lab/m", max_workers=1))
        import hashlib
        assert hashlib.sha256((got / "model.safetensors").read_bytes()).hexdigest() == {sha256(data)!r}
        assert (got / "config.json").read_bytes() == b"{{}}"
        """,
        home=home,
    )
    assert "Trying to resume download" in done.stderr
    gets = loopback_hub.requests("GET", "/resolve/.*/model.safetensors")
    assert [(entry.status, entry.range, entry.bytes_out) for entry in gets] == [
        (200, None, 15_000_000),
        (206, f"bytes={10 << 20}-", 21_000_000 - (10 << 20)),
    ]
    assert [entry.status for entry in loopback_hub.requests("HEAD", "config.json")] == [503, 200]
    assert [entry.status for entry in loopback_hub.requests("GET", "/tree/")] == [500, 200]
    assert [entry.status for entry in loopback_hub.requests("GET", "config.json")] == [429, 200]


def test_a_warm_cache_serves_without_the_hub(loopback_hub, home):
    loopback_hub.add_repo("lab/m", {"config.json": b"{}", "a.safetensors": b"a", "b.safetensors": b"b"})
    run(loopback_hub, 'snapshot_download("lab/m", allow_patterns=["config.json", "a*"])', home=home)
    loopback_hub.clear_log()
    run(
        loopback_hub,
        """
        got = Path(snapshot_download("lab/m", allow_patterns=["config.json", "a*"]))
        assert sorted(path.name for path in got.iterdir()) == ["a.safetensors", "config.json"]
        assert Path(hf_hub_download("lab/m", "a.safetensors")).read_bytes() == b"a"
        raises(errors.LocalEntryNotFoundError, None, lambda: hf_hub_download("lab/m", "b.safetensors"))
        raises(errors.OfflineModeIsEnabled, None, lambda: api.model_info("lab/m"))
        """,
        home=home,
        HF_HUB_OFFLINE="1",
    )
    assert loopback_hub.log == []


def test_long_listings_come_in_pages(tmp_path, home):
    files = {f"sessions/{number:03}.safetensors": bytes([number]) for number in range(20)}
    with LoopbackHub(tmp_path / "hub", page_size=6) as hub:
        hub.add_repo("lab/d", files, repo_type="dataset")
        run(
            hub,
            'assert len(api.list_repo_files("lab/d", repo_type="dataset")) == 20\n'
            'assert len(list(api.list_repo_tree("lab/d", repo_type="dataset", recursive=True))) == 21',
            home=home,
        )
        assert len(hub.requests("GET", "/tree/")) == 8
