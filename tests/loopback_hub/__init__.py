"""A Hugging Face Hub on 127.0.0.1 for tests and benchmarks, speaking to the real clients.

It keeps models and datasets with branches, tags, commits and pull requests, takes uploads as LFS files, regular files
or through Xet, knows tokens, private and gated repositories, and can fail on purpose. It needs nothing but the standard
library. It encodes what `huggingface_hub` asks for and understands; what else the real Hub checks, it does not.

In a test (`tests/conftest.py` puts `tests/` on the path and offers the fixture `loopback_hub`):

    def test_download(loopback_hub, tmp_path):
        loopback_hub.add_repo("lab/model", {"config.json": b"{}", "model.safetensors": Path("...")})
        loopback_hub.run("from huggingface_hub import ...", home=tmp_path / "home", token="hf_write")

Elsewhere, after `sys.path.append(<folder tests>)`:

    with LoopbackHub(root, mode="lfs") as hub:
        subprocess.run([...], env=hub.environment(home))

As a process of its own: `python tests/loopback_hub --root FOLDER --repo lab/model=FOLDER`; the first line it prints is
its address, and `POST /_control` steers it (see `control.py`).
"""

from __future__ import annotations

import re
import secrets
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .client import client_environment, run_client
from .faults import Faults
from .messages import Request
from .repositories import Entry, HubError, Repository
from .server import LoggedRequest, Server
from .storage import Blob, BlobStore
from .xet import XetStore

__all__ = ["LoggedRequest", "LoopbackHub", "start"]

MODES = ("lfs", "regular", "xet")
# fmt: off
LFS_SUFFIXES = (
    ".safetensors", ".ckpt", ".parquet", ".arrow", ".bin", ".npy", ".npz", ".h5", ".hdf5", ".pt", ".pth", ".pkl",
    ".onnx", ".msgpack", ".tar", ".gz", ".zip", ".zst",
)
# fmt: on
# The real Hub takes anything of 10 MiB or more for a large file.
LFS_THRESHOLD = 10 << 20
TOKENS = {"hf_write": "lab", "hf_stranger": "stranger"}
READ_TOKENS = {"hf_read": "lab"}

Files = Mapping[str, "Path | bytes"]


class LoopbackHub:
    """The hub: its repositories, its users, its faults, its request log, and the server once it is started.

    Args:
        root: Folder for everything it stores; by default a temporary one that goes with the hub.
        mode: How clients must send large files: "lfs" (HTTP), "xet" (through `hf_xet`), or "regular" (no large files).
        tokens: Tokens that may write, and the users they stand for.
        read_tokens: Tokens that may only read.
        organizations: Namespaces other than users, and the users who may write to them.
        threshold: Size in bytes from which a file of any name is a large file.
        page_size: Entries on one page of a listing.
        port: Port to listen on; 0 takes a free one.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        mode: str = "lfs",
        tokens: Mapping[str, str] | None = None,
        read_tokens: Mapping[str, str] | None = None,
        organizations: Mapping[str, Iterable[str]] | None = None,
        threshold: int = LFS_THRESHOLD,
        page_size: int = 1000,
        port: int = 0,
    ):
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        self._temporary = tempfile.TemporaryDirectory(prefix="loopback-hub-") if root is None else None
        self.root = Path(self._temporary.name if root is None else root)
        self.mode = mode
        self.tokens = dict(TOKENS if tokens is None else tokens)
        self.read_tokens = dict(READ_TOKENS if read_tokens is None and tokens is None else read_tokens or {})
        self.organizations = {name: set(members) for name, members in (organizations or {}).items()}
        self.threshold = threshold
        self.page_size = page_size
        self.port = port
        self.store = BlobStore(self.root)
        self.xet = XetStore(self.root / "xet") if mode == "xet" else None
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.faults = Faults()
        self.lock = threading.RLock()
        self._log: list[LoggedRequest] = []
        self._uploaded: Counter[str] = Counter()
        self._in_flight = 0
        self._settled = threading.Condition(self.lock)
        self._grants: dict[str, tuple[str, str]] = {}
        self.server: Server | None = None

    def start(self) -> LoopbackHub:
        """Listen, in a thread of this process."""
        self.server = Server(self, self.port)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> LoopbackHub:
        return self.start()

    def __exit__(self, *exception) -> None:
        self.close()

    @property
    def url(self) -> str:
        if self.server is None:
            raise RuntimeError("the hub is not running: use `with LoopbackHub(...) as hub` or `start()`")
        return self.server.url

    def add_repo(
        self,
        repo_id: str,
        files: Files | Path | None = None,
        *,
        repo_type: str = "model",
        private: bool = False,
        gated: str | bool = False,
        granted: Iterable[str] = (),
        author: str = "lab",
    ) -> str:
        """Make a repository without going through HTTP.

        Args:
            files: {path in repo: content, or file to serve in place}, or a folder to serve in place.
            gated: Truthy, e.g. "auto": only members and the users in `granted` may download.

        Returns:
            The id of its first commit.
        """
        if (repo_type, repo_id) in self.repositories:
            raise ValueError(f"there is a {repo_type} {repo_id!r} already: use `commit` to add to it")
        repo = Repository(repo_type, repo_id, private, "auto" if gated is True else gated, set(granted))
        first = repo.add_commit(self._entries(files), parent=None, title="initial commit", author=author)
        repo.branches["main"] = first.oid
        self.repositories[repo_type, repo_id] = repo
        return first.oid

    def commit(
        self,
        repo_id: str,
        files: Files | Path | None = None,
        *,
        delete: Sequence[str] = (),
        repo_type: str = "model",
        branch: str = "main",
        title: str = "commit",
        author: str = "lab",
    ) -> str:
        """Add a commit without going through HTTP, making the branch off main if it is not there; returns its id."""
        repo = self.repo(repo_id, repo_type=repo_type)
        with repo.lock:
            tip = repo.branches.get(branch) or repo.branches["main"]
            kept = {path: entry for path, entry in repo.commits[tip].files.items() if path not in delete}
            added = repo.add_commit(kept | self._entries(files), parent=tip, title=title, author=author)
            repo.branches[branch] = added.oid
        return added.oid

    def repo(self, repo_id: str, *, repo_type: str = "model") -> Repository:
        """The state of a repository, e.g. to set its `tags` or look at its `branches`."""
        return self.repositories[repo_type, repo_id]

    def paths(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> list[str]:
        return sorted(self.repo(repo_id, repo_type=repo_type).find(revision).files)

    def read(self, repo_id: str, path: str, revision: str = "main", *, repo_type: str = "model") -> bytes:
        """Content of a file, whichever way it came."""
        return self.repo(repo_id, repo_type=repo_type).find(revision).files[path].blob.read()

    @property
    def log(self) -> list[LoggedRequest]:
        """Every request so far, in the order in which they came."""
        self._settle()
        return list(self._log)

    @property
    def uploaded(self) -> Counter[str]:
        """{sha256: bytes that arrived for this LFS file}, whether they were kept or not."""
        self._settle()
        return Counter(self._uploaded)

    def requests(self, method: str = ".*", path: str = "") -> list[LoggedRequest]:
        """The logged requests whose method and (unquoted) path match the expressions."""
        return [entry for entry in self.log if re.fullmatch(method, entry.method) and re.search(path, entry.path)]

    def errors(self) -> list[LoggedRequest]:
        """Requests that this server itself failed at, or has no route for: a test should find none."""
        return [
            entry
            for entry in list(self.log)
            if entry.error and ("Traceback" in entry.error or "no route" in entry.error)
        ]

    def clear_log(self) -> None:
        """Forget the requests and the count of uploaded bytes."""
        self._settle()
        self._log.clear()
        self._uploaded.clear()

    def environment(self, home: Path | str, token: str | None = None, **extra: str | None) -> dict[str, str]:
        """Environment of a client process: this hub, `home` as its cache, `token` or none, plus `extra` variables."""
        return client_environment(self.url, home, token=token, xet=self.mode == "xet", **extra)

    def run(
        self,
        code: str | Sequence[str],
        *,
        home: Path | str,
        token: str | None = None,
        check: bool = True,
        cwd: Path | str | None = None,
        **extra: str | None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code (or `python` with a list of arguments) as a client of this hub; output is captured.

        Raises:
            AssertionError: it failed and `check` is set; shows what it printed.
        """
        return run_client(code, environment=self.environment(home, token, **extra), cwd=cwd or home, check=check)

    def is_lfs(self, path: str, size: int) -> bool:
        return self.mode != "regular" and size > 0 and (path.endswith(LFS_SUFFIXES) or size >= self.threshold)

    def gitattributes(self) -> bytes:
        """What the real Hub puts into every new repository."""
        return "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()

    def is_member(self, user: str | None, namespace: str) -> bool:
        return user is not None and (user == namespace or user in self.organizations.get(namespace, ()))

    def require_user(self, request: Request) -> None:
        if request.user is None:
            raise HubError(401, None, "Invalid username or password.")
        if request.read_only:
            raise HubError(403, None, "Forbidden: you must use a write token to upload to a repository.")

    def require_writer(self, request: Request, repo: Repository) -> None:
        self.require_user(request)
        if not self.is_member(request.user, repo.namespace):
            raise HubError(403, None, f"Forbidden: {request.user} has no right to write to {repo.repo_id}")

    def grant_upload(self, sha256: str, user: str) -> str:
        """A ticket for one upload, as the real Hub signs the addresses it hands out."""
        ticket = secrets.token_hex(16)
        self._grants[ticket] = (sha256, user)
        return ticket

    def granted_uploader(self, ticket: str | None, sha256: str) -> str | None:
        granted_sha256, user = self._grants.get(ticket or "", (None, None))
        return user if granted_sha256 == sha256 else None

    def request_begins(self, entry: LoggedRequest) -> None:
        with self.lock:
            self._log.append(entry)
            self._in_flight += 1

    def request_ends(self, uploaded_sha256: str | None, n_bytes: int) -> None:
        with self.lock:
            if uploaded_sha256 is not None:
                self._uploaded[uploaded_sha256] += n_bytes
            self._in_flight -= 1
            self._settled.notify_all()

    def _settle(self) -> None:
        """Wait for the requests under way: a client has its answer a moment before the log is complete."""
        with self._settled:
            self._settled.wait_for(lambda: self._in_flight == 0, timeout=10)

    def _entries(self, files: Files | Path | None) -> dict[str, Entry]:
        if isinstance(files, Path):
            folder = files
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        entries = {}
        for path, content in (files or {}).items():
            blob: Blob = self.store.add_bytes(content) if isinstance(content, bytes) else self.store.add_file(content)
            entries[path] = Entry(blob, lfs=self.is_lfs(path, blob.size))
        return entries


def start(root: Path | str | None = None, **options) -> tuple[LoopbackHub, Server, str]:
    """Start a hub in this process; `hub.close()` ends it."""
    hub = LoopbackHub(root, **options).start()
    return hub, hub.server, hub.url
