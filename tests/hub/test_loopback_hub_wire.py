"""The loopback hub on the wire: what no client asks, what it does on its own, and as a process of its own."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from loopback_hub import LoopbackHub


def content(seed, size):
    return random.Random(seed).randbytes(size)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Wire:
    """One kept connection, for what no client asks."""

    def __init__(self, url):
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def __call__(self, method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body=body, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_parts_of_files(loopback_hub):
    data = content(1, 10_000)
    commit = loopback_hub.add_repo("lab/m", {"a.bin": data, "empty.bin": b""})
    ask, path = Wire(loopback_hub.url), "/lab/m/resolve/main/a.bin"
    status, headers, body = ask("HEAD", path)
    assert (status, headers["Content-Length"], body) == (200, "10000", b"")
    assert (headers["X-Repo-Commit"], headers["ETag"]) == (commit, f'"{sha256(data)}"')
    assert headers["X-Linked-Size"] == "10000"
    for wanted, start, stop in (("0-0", 0, 1), ("100-199", 100, 200), ("9000-", 9000, 10_000), ("-10", 9990, 10_000)):
        status, headers, body = ask("GET", path, Range=f"bytes={wanted}")
        assert (status, body) == (206, data[start:stop]), wanted
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/10000"
    assert ask("GET", path, Range="bytes=9999-20000")[2] == data[9999:]
    status, headers, _ = ask("GET", path, Range="bytes=10000-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10000")
    assert ask("GET", path, Range="bytes=0-1,5-6")[::2] == (200, data)
    assert ask("GET", "/lab/m/resolve/main/empty.bin")[::2] == (200, b"")
    assert ask("GET", "/datasets/lab/m/resolve/main/a.bin")[0] == 401
    status, headers, _ = ask("HEAD", "/lab/m/resolve/main/b.bin")
    assert (status, headers["X-Error-Code"], headers["X-Repo-Commit"]) == (404, "EntryNotFound", commit)


def test_uploads_on_the_wire(loopback_hub):
    loopback_hub.add_repo("lab/m")
    data = content(1, 100_000)
    ask, token = Wire(loopback_hub.url), {"Authorization": "Bearer hf_write"}
    wanted = json.dumps({"operation": "upload", "objects": [{"oid": sha256(data), "size": len(data)}]})
    status, _, body = ask("POST", "/lab/m.git/info/lfs/objects/batch", wanted, **token)
    upload = json.loads(body)["objects"][0]["actions"]["upload"]["href"].removeprefix(loopback_hub.url)
    lfs_file = {"key": "lfsFile", "value": {"path": "a.bin", "oid": sha256(data), "size": len(data)}}
    lines = "\n".join(json.dumps(line) for line in ({"key": "header", "value": {"summary": "a"}}, lfs_file))
    commit = "/api/models/lab/m/commit/main"
    status, headers, _ = ask("POST", commit, lines, **token)
    assert status == 400 and "LFS pointer points to a file that does not exist" in headers["X-Error-Message"]
    assert ask("PUT", upload.partition("?")[0], data)[0] == 403, "an upload without the address that was handed out"
    assert ask("PUT", upload, data[1:])[0] == 400, "content that hashes to something else"
    # A generator is sent in chunks of unknown number.
    assert ask("PUT", upload, (data[at : at + 30_000] for at in range(0, len(data), 30_000)))[0] == 200
    assert ask("POST", commit, (line.encode() for line in lines.splitlines(keepends=True)), **token)[0] == 200
    assert loopback_hub.read("lab/m", "a.bin") == data
    assert json.loads(ask("POST", "/lab/m.git/info/lfs/objects/batch", wanted, **token)[2])["objects"] == [
        {"oid": sha256(data), "size": len(data)}
    ]
    assert ask("POST", "/api/validate-yaml", "{")[0] == 400
    assert list((loopback_hub.root / "partial").iterdir()) == []


def test_its_own_failures_are_told_and_written_down(tmp_path):
    served = tmp_path / "served.json"
    served.write_text("{}")
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add_repo("lab/m", {"config.json": served})
        served.unlink()
        ask = Wire(hub.url)
        status, _, body = ask("GET", "/lab/m/resolve/main/config.json")
        assert status == 500 and b"FileNotFoundError" in body
        assert ask("GET", "/api/models/lab/m/unheard-of")[0] == 404
        assert ask("POST", "/api/models/lab/m/refs")[0] == 404
        assert ask("GET", "/api/models/lab/m/refs")[0] == 200, "the connection outlives a failure"
        assert [(entry.method, entry.path, entry.status) for entry in hub.errors()] == [
            ("GET", "/lab/m/resolve/main/config.json", 500),
            ("GET", "/api/models/lab/m/unheard-of", 404),
            ("POST", "/api/models/lab/m/refs", 404),
        ]


def test_files_are_served_in_place_and_hashed_once(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "sessions").mkdir(parents=True)
    (corpus / "sessions" / "a.safetensors").write_bytes(b"a" * 1000)
    (corpus / "config.json").write_text("{}")
    seen = []
    for _ in range(2):
        with LoopbackHub(tmp_path / "hub") as hub:
            assert len(hub.store._hashes) == 2 * len(seen)
            commit = hub.add_repo("institute/corpus", corpus)
            tree = json.loads(Wire(hub.url)("GET", "/api/models/institute/corpus/tree/main?recursive=true")[2])
            seen.append((commit, tree))
            assert list((tmp_path / "hub" / "blobs").iterdir()) == []
    assert seen[0] == seen[1]
    assert seen[0][1][2]["lfs"] == {"oid": sha256(b"a" * 1000), "size": 1000, "pointerSize": 129}
    assert [item["path"] for item in seen[0][1]] == ["config.json", "sessions", "sessions/a.safetensors"]


def test_commits_made_on_the_server(loopback_hub):
    first = loopback_hub.add_repo("lab/m", {"a": b"1", "b": b"2"})
    second = loopback_hub.commit("lab/m", {"a": b"3"}, delete=["b"])
    aside = loopback_hub.commit("lab/m", {"c": b"4"}, branch="aside")
    assert [loopback_hub.read("lab/m", "a", revision) for revision in (first, second, "main", "aside")] == [
        b"1",
        b"3",
        b"3",
        b"3",
    ]
    assert (loopback_hub.paths("lab/m"), loopback_hub.paths("lab/m", aside)) == (["a"], ["a", "c"])
    with pytest.raises(ValueError, match="there is a model 'lab/m' already"):
        loopback_hub.add_repo("lab/m")
    with pytest.raises(ValueError, match="mode must be one of lfs, regular, xet"):
        LoopbackHub(mode="git")


def test_a_hub_in_a_process_of_its_own_can_be_steered(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "config.json").write_text("{}")
    script = Path(__file__).parents[1] / "loopback_hub"
    command = [sys.executable, script, "--root", tmp_path / "hub", "--repo", f"lab/m={tmp_path / 'files'}"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            ask = Wire(url)

            def steer(**order):
                status, _, body = ask("POST", "/_control", json.dumps(order))
                return status, json.loads(body)

            assert steer(action="answer", status=503, method="GET", path="config.json", times=2) == (
                200,
                {"result": None},
            )
            got = [ask("GET", "/lab/m/resolve/main/config.json")[0] for _ in range(3)]
            assert got == [503, 503, 200]
            assert (
                steer(action="add_repo", repo_id="lab/n", files=str(tmp_path / "files"), repo_type="dataset")[0] == 200
            )
            assert ask("GET", "/datasets/lab/n/resolve/main/config.json")[2] == b"{}"
            assert steer(action="invent")[0] == 400
            assert steer(action="answer", wrong=1)[0] == 400
            log = json.loads(ask("GET", "/_control/log")[2])
            assert [(entry["method"], entry["status"]) for entry in log] == [("GET", s) for s in (503, 503, 200, 200)]
            with urllib.request.urlopen(f"{url}/_control/state") as answer:
                state = json.load(answer)
            assert [(repo["repo_type"], repo["repo_id"]) for repo in state["repositories"]] == [
                ("model", "lab/m"),
                ("dataset", "lab/n"),
            ]
        finally:
            server.terminate()
    assert server.returncode == 0


def test_clients_know_nothing_of_the_account_outside(loopback_hub, tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "outside")
    environment = loopback_hub.environment(home)
    assert "outside" not in environment.values()
    assert (environment["HF_ENDPOINT"], environment["HF_HOME"]) == (loopback_hub.url, str(home))
    assert environment["HF_HUB_DISABLE_XET"] == "1"
    assert loopback_hub.environment(home, "hf_read", HF_HUB_OFFLINE="1")["HF_TOKEN"] == "hf_read"
    with pytest.raises(AssertionError, match=r"(?s)ended with 3.*told.*complained"):
        loopback_hub.run("import sys; print('told'); print('complained', file=sys.stderr); sys.exit(3)", home=home)
    assert loopback_hub.run(["-c", "print(1)"], home=home).stdout == "1\n"


def test_faults_meet_the_requests_they_are_meant_for(loopback_hub, monkeypatch):
    waited = []
    monkeypatch.setattr("loopback_hub.server.time.sleep", waited.append)
    loopback_hub.add_repo("lab/m", {"a": b"1"})
    loopback_hub.faults.delay(3.0, method="GET", path="/a$", skip=1)
    ask = Wire(loopback_hub.url)
    assert [ask("GET", "/lab/m/resolve/main/a")[0] for _ in range(3)] == [200, 200, 200]
    assert waited == [3.0]
    loopback_hub.faults.answer(500, skip=1)
    assert [ask("GET", "/lab/m/resolve/main/a")[0] for _ in range(3)] == [200, 500, 200]
    loopback_hub.faults.answer(500)
    loopback_hub.faults.clear()
    assert ask("GET", "/lab/m/resolve/main/a")[0] == 200
