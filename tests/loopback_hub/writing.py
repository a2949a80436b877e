"""Routes that change a repository: uploads, commits, branches, tags, pull requests, settings."""

from __future__ import annotations

import base64
import fnmatch
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .messages import Reply, Request, json_reply, split_revision
from .reading import discussion_info
from .repositories import Commit, Entry, HubError, Repository, revision_not_found

if TYPE_CHECKING:
    from . import LoopbackHub

_LFS_MEDIA_TYPE = {"Content-Type": "application/vnd.git-lfs+json"}


def preupload(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    """Tell the client how to send each file, which to leave out, and what is there already."""
    present = repo.find(split_revision(rest)[0]).files
    asked = request.json()
    ignored = asked.get("gitIgnore") or ""
    files = []
    for file in asked["files"]:
        path = file["path"]
        mode = "lfs" if hub.is_lfs(path, file["size"]) else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": _is_ignored(path, ignored)}
        if path in present:
            answer["oid"] = present[path].content_id
        files.append(answer)
    return json_reply({"files": files})


def _is_ignored(path: str, gitignore: str) -> bool:
    """The common part of .gitignore: names, globs and folders."""
    parts = path.split("/")
    leading = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    for pattern in (line.strip() for line in gitignore.splitlines()):
        if not pattern or pattern.startswith("#"):
            continue
        pattern = pattern.rstrip("/").removeprefix("/")
        if any(fnmatch.fnmatchcase(name, pattern) for name in [*parts, *leading]):
            return True
    return False


def lfs_batch(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    """Where to send LFS files; for content that is stored already there is nothing to do."""
    asked = request.json()
    if asked.get("operation") != "upload":
        raise HubError(400, None, "only the operation 'upload' is served: downloads go through resolve")
    root = f"{request.base_url}/{repo.web_path}.git/info/lfs/objects"
    objects = []
    for wanted in asked["objects"]:
        answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if hub.store.find(wanted["oid"]) is None:
            href = f"{request.base_url}/lfs/{wanted['oid']}?grant={hub.grant_upload(wanted['oid'], request.user)}"
            answer["actions"] = {"upload": {"href": href, "header": {}}, "verify": {"href": f"{root}/verify"}}
        objects.append(answer)
    return json_reply({"transfer": "basic", "objects": objects}, headers=_LFS_MEDIA_TYPE)


def lfs_verify(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    sent = request.json()
    blob = hub.store.find(sent["oid"])
    if blob is None or blob.size != sent["size"]:
        raise HubError(404, None, f"there is no content {sent['oid']} of {sent['size']} bytes")
    return json_reply({}, headers=_LFS_MEDIA_TYPE)


def commit(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    """Add a commit to a branch or pull request, or open a pull request with it."""
    ref = split_revision(rest)[0]
    lines = request.body.lines()
    header = _line(next(lines, b"{}"))
    if header.get("key") != "header":
        raise HubError(400, None, "the first line of a commit must be its header")
    header = header["value"]
    with repo.lock:
        tip = repo.tip(ref)
        if header.get("parentCommit") not in (None, tip):
            raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[tip].files)
        for line in lines:
            _apply(hub, repo, files, **_line(line))
        title, description = header["summary"], header.get("description", "")
        added = repo.add_commit(files, parent=tip, title=title, description=description, author=request.user)
        web = f"{request.base_url}/{repo.web_path}"
        answer = {"success": True, "commitOid": added.oid, "commitUrl": f"{web}/commit/{added.oid}", "hookOutput": ""}
        if request.flag("create_pr"):
            pull_request = repo.open_pull_request(
                title=title, description=description, author=request.user, base=ref, tip=added.oid
            )
            answer["pullRequestUrl"] = f"{web}/discussions/{pull_request.num}"
        else:
            repo.advance(ref, added)
    return json_reply(answer)


def _line(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise HubError(400, None, f"a line of the commit is no JSON: {error}") from error


def _apply(hub: LoopbackHub, repo: Repository, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
    """Carry out one line of a commit."""
    path = value["path"].strip("/")
    if key == "file":
        content = value["content"]
        data = base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()
        files[path] = Entry(hub.store.add_bytes(data), lfs=False)
    elif key == "lfsFile":
        files[path] = _lfs_entry(hub, path, value)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
    elif key == "deletedFolder":
        inside = [name for name in files if name.startswith(path + "/")]
        if not inside:
            raise HubError(404, "EntryNotFound", f"A folder with this name doesn't exist: {path}")
        for name in inside:
            del files[name]
    elif key == "copyFile":
        source = repo.find(value.get("srcRevision") or "main").files.get(value["srcPath"])
        if source is None:
            raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {value['srcPath']}")
        files[path] = source
    else:
        raise HubError(400, None, f"unknown commit operation {key!r}")


def _lfs_entry(hub: LoopbackHub, path: str, value: dict[str, Any]) -> Entry:
    blob = hub.store.find(value["oid"])
    if blob is None and hub.xet is not None and (xet_hash := hub.xet.find(value["oid"])) is not None:
        blob = hub.store.add_xet(value["oid"], value["size"], xet_hash=xet_hash, fetch=hub.xet.fetch)
    if blob is None or blob.size != value.get("size", blob.size):
        raise HubError(
            400, None, f"Your push was rejected because an LFS pointer points to a file that does not exist: {path}"
        )
    return Entry(blob, lfs=True)


def create_branch(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    name, asked = unquote(rest), request.json() or {}
    with repo.lock:
        if name in repo.branches:
            raise HubError(409, None, f"Reference already exists: {name}")
        repo.branches[name] = repo.find(asked.get("startingPoint") or "main").oid
    return json_reply({})


def delete_branch(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    name = unquote(rest)
    with repo.lock:
        if name == "main":
            raise HubError(403, None, "The default branch cannot be deleted")
        if repo.branches.pop(name, None) is None:
            raise revision_not_found(name)
    return json_reply({})


def create_tag(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    name = request.json()["tag"]
    with repo.lock:
        if name in repo.tags:
            raise HubError(409, None, f"Tag {name} already exists")
        repo.tags[name] = repo.find(split_revision(rest)[0]).oid
    return json_reply({})


def delete_tag(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    with repo.lock:
        if repo.tags.pop(unquote(rest), None) is None:
            raise revision_not_found(unquote(rest))
    return json_reply({})


def settings(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    asked = request.json()
    if "visibility" in asked or "private" in asked:
        repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    if "gated" in asked:
        repo.gated = asked["gated"]
    return json_reply({"private": repo.private, "gated": repo.gated})


def open_discussion(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    """Open an empty pull request: uploads of folders through Xet do so before they commit to it."""
    if rest:
        return _merge(hub, request, repo, rest)
    asked = request.json()
    if not asked.get("pullRequest"):
        raise HubError(400, None, "only pull requests are kept here, no other discussions")
    with repo.lock:
        pull_request = repo.open_pull_request(
            title=asked["title"],
            description=asked.get("description", ""),
            author=request.user,
            base="main",
            tip=repo.tip("main"),
        )
    return json_reply(discussion_info(repo, pull_request))


def _merge(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    num, _, action = rest.partition("/")
    if action != "merge":
        raise HubError(404, None, f"no route for {action!r} of a discussion")
    hub.require_writer(request, repo)
    with repo.lock:
        merged: Commit = repo.merge(repo.find_pull_request(num), request.user)
    return json_reply({"mergeCommitId": merged.oid})
