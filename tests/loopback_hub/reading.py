"""Routes that read a repository: what it is, what lies in it, and the files themselves."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from .messages import Reply, Request, file_reply, json_reply, page_reply, split_revision
from .repositories import Commit, Entry, HubError, PullRequest, Repository

if TYPE_CHECKING:
    from . import LoopbackHub

_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", re.DOTALL)


def front_matter(card: str) -> dict | None:
    """The YAML at the top of a model card; None if there is none.

    Raises:
        ValueError: what lies between the dashes is no YAML mapping.
    """
    import yaml

    match = _FRONT_MATTER.match(card)
    if match is None:
        return None
    try:
        content = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata is no YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"the metadata must be a mapping, not {type(content).__name__}")
    return content


def repository_info(repo: Repository, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """What `model_info` and `dataset_info` return."""
    siblings = []
    for path, entry in sorted(commit.files.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": entry.blob.size, "blobId": entry.oid}
            if entry.lfs:
                sibling["lfs"] = _lfs_info(entry, "sha256")
        siblings.append(sibling)
    first = list(repo.history(commit))[-1]
    info = {
        "_id": hashlib.sha1(repo.web_path.encode()).hexdigest()[:24],
        "id": repo.repo_id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": commit.date_text,
        "createdAt": first.date_text,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }
    if repo.repo_type == "model":
        info["modelId"] = repo.repo_id
    return info | _card_info(commit)


def _card_info(commit: Commit) -> dict[str, Any]:
    card = commit.files.get("README.md")
    if card is None:
        return {"tags": []}
    try:
        data = front_matter(card.blob.read().decode()) or {}
    except ValueError:
        data = {}
    tags = data.get("tags") or []
    shown = {"cardData": data, "tags": [tags] if isinstance(tags, str) else list(tags)}
    return shown | {key: data[key] for key in ("library_name", "pipeline_tag") if key in data}


def _lfs_info(entry: Entry, hash_key: str) -> dict[str, Any]:
    return {hash_key: entry.blob.sha256, "size": entry.blob.size, "pointerSize": len(entry.blob.pointer)}


def _file_info(repo: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    entry = commit.files[path]
    info: dict[str, Any] = {"type": "file", "path": path, "size": entry.blob.size, "oid": entry.oid}
    if entry.lfs:
        info["lfs"] = _lfs_info(entry, "oid")
    if entry.blob.xet_hash is not None:
        info["xetHash"] = entry.blob.xet_hash
    if expand:
        change = repo.last_change(commit, path)
        info["lastCommit"] = {"id": change.oid, "title": change.title, "date": change.date_text}
    return info


def _folder_info(repo: Repository, commit: Commit, folder: str, expand: bool) -> dict[str, Any]:
    inside = sorted(path for path in commit.files if path.startswith(folder + "/"))
    content = "\n".join(f"{path} {commit.files[path].blob.identity}" for path in inside)
    info: dict[str, Any] = {"type": "directory", "path": folder, "size": 0}
    info["oid"] = hashlib.sha1(content.encode()).hexdigest()
    if expand:
        change = max((repo.last_change(commit, path) for path in inside), key=lambda change: change.date)
        info["lastCommit"] = {"id": change.oid, "title": change.title, "date": change.date_text}
    return info


def info(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    commit = repo.find(split_revision(rest)[0] if rest else "main")
    return json_reply(repository_info(repo, commit, blobs=request.flag("blobs")))


def tree(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    revision, folder = split_revision(rest)
    commit, folder = repo.find(revision), folder.strip("/")
    prefix = f"{folder}/" if folder else ""
    inside = [path for path in commit.files if path.startswith(prefix)]
    if folder and not inside:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
    recursive, expand, shown = request.flag("recursive"), request.flag("expand"), {}
    for path in inside:
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            shown[prefix + "/".join(parts[:depth])] = _folder_info
        if recursive or len(parts) == 1:
            shown[path] = _file_info
    items = [describe(repo, commit, path, expand) for path, describe in sorted(shown.items())]
    return page_reply(items, request, hub.page_size)


def paths_info(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    commit = repo.find(split_revision(rest)[0])
    if "json" in request.headers.get("Content-Type", ""):
        asked = request.json()
        paths, expand = asked["paths"], bool(asked.get("expand"))
    else:
        form = parse_qs(request.body.read().decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    found = []
    for path in (path.strip("/") for path in paths):
        if path in commit.files:
            found.append(_file_info(repo, commit, path, expand))
        elif any(name.startswith(path + "/") for name in commit.files):
            found.append(_folder_info(repo, commit, path, expand))
    return json_reply(found)


def refs(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    def listed(tips: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in tips.items()]

    found = {"branches": listed(repo.branches, "refs/heads/"), "converts": [], "tags": listed(repo.tags, "refs/tags/")}
    if request.flag("include_prs"):
        found["pullRequests"] = listed(repo.pull_request_tips, "")
    return json_reply(found)


def commits(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    history = repo.history(repo.find(split_revision(rest)[0]))
    items = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.description,
            "date": commit.date_text,
            "authors": [{"user": commit.author}],
        }
        for commit in history
    ]
    return page_reply(items, request, hub.page_size)


def resolve(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    """A file, whole or in part. The real Hub sends large files elsewhere; here they come from the same place."""
    revision, path = split_revision(rest)
    commit = repo.find(revision)
    entry = commit.files.get(path)
    if entry is None:
        raise HubError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.oid})
    etag = f'"{entry.content_id}"'
    headers = {"ETag": etag, "X-Repo-Commit": commit.oid}
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])};"
    if entry.lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.blob.size)}
    if entry.blob.xet_hash is not None:
        token_url = f"{request.base_url}/api/{repo.repo_type}s/{repo.repo_id}/xet-read-token/{commit.oid}"
        headers |= {"X-Xet-Hash": entry.blob.xet_hash, "Link": f'<{token_url}>; rel="xet-auth"'}
    return file_reply(entry.blob, headers, request.headers.get("Range"))


def xet_token(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    if hub.xet is None:
        raise HubError(404, None, "this hub has no Xet store")
    split_revision(rest)
    granted = {"casUrl": hub.xet.address, "exp": int(time.time()) + 3600, "accessToken": "loopback"}
    headers = {
        "X-Xet-Cas-Url": granted["casUrl"],
        "X-Xet-Access-Token": granted["accessToken"],
        "X-Xet-Token-Expiration": str(granted["exp"]),
    }
    return json_reply(granted, headers=headers)


def discussions(hub: LoopbackHub, request: Request, repo: Repository, rest: str) -> Reply:
    """Pull requests, one or all. Discussions without changes are not kept."""
    if rest:
        return json_reply(discussion_info(repo, repo.find_pull_request(rest)))
    found = [discussion_info(repo, pull_request) for pull_request in reversed(repo.pull_requests)]
    return json_reply({"discussions": found, "count": len(found), "start": 0})


def discussion_info(repo: Repository, pull_request: PullRequest) -> dict[str, Any]:
    return {
        "num": pull_request.num,
        "title": pull_request.title,
        "author": {"name": pull_request.author},
        "createdAt": pull_request.date.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "status": pull_request.status,
        "repo": {"name": repo.repo_id, "type": repo.repo_type},
        "isPullRequest": True,
        "events": [],
        "filesWithConflicts": [],
        "changes": {"base": f"refs/heads/{pull_request.base}", "mergeCommitId": None},
        "diff": "",
    }
