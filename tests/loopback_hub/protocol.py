"""Which request goes where, and who may do what.

The refusals follow what `huggingface_hub` makes exceptions of: it looks at `X-Error-Code` first, and for an address
that is not https it takes a bare 401 for nothing in particular. So the code is always sent along.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import reading, writing
from .messages import Reply, Request, json_reply
from .repositories import HubError, Repository

if TYPE_CHECKING:
    from . import LoopbackHub

Route = Callable[["LoopbackHub", Request, Repository, str], Reply]

# (method, first part of the path below the repository) -> (what it takes to be let in, what answers)
REPOSITORY_ROUTES: dict[tuple[str, str], tuple[str, Route]] = {
    ("GET", ""): ("see", reading.info),
    ("GET", "revision"): ("see", reading.info),
    ("GET", "tree"): ("see", reading.tree),
    ("GET", "refs"): ("see", reading.refs),
    ("GET", "commits"): ("see", reading.commits),
    ("POST", "paths-info"): ("see", reading.paths_info),
    ("GET", "discussions"): ("see", reading.discussions),
    ("GET", "resolve"): ("read", reading.resolve),
    ("HEAD", "resolve"): ("read", reading.resolve),
    ("GET", "xet-read-token"): ("read", reading.xet_token),
    ("GET", "auth-check"): ("check", lambda hub, request, repo, rest: json_reply({})),
    ("POST", "discussions"): ("propose", writing.open_discussion),
    ("POST", "preupload"): ("commit", writing.preupload),
    ("POST", "commit"): ("commit", writing.commit),
    ("GET", "xet-write-token"): ("commit", reading.xet_token),
    ("POST", "lfs-batch"): ("propose", writing.lfs_batch),
    ("POST", "lfs-verify"): ("propose", writing.lfs_verify),
    ("POST", "branch"): ("write", writing.create_branch),
    ("DELETE", "branch"): ("write", writing.delete_branch),
    ("POST", "tag"): ("write", writing.create_tag),
    ("DELETE", "tag"): ("write", writing.delete_tag),
    ("PUT", "settings"): ("write", writing.settings),
}
_VERBS = {verb for _, verb in REPOSITORY_ROUTES}


def respond(hub: LoopbackHub, request: Request) -> Reply:
    """Answer one request.

    Raises:
        HubError: the request is refused.
    """
    if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", request.path):
        return _receive_lfs(hub, request, match[1])
    _authenticate(hub, request)
    account_route = {
        ("GET", "/api/whoami-v2"): _whoami,
        ("POST", "/api/validate-yaml"): _validate_yaml,
        ("POST", "/api/repos/create"): _create_repo,
        ("DELETE", "/api/repos/delete"): _delete_repo,
        ("GET", "/api/models"): _list_repos,
        ("GET", "/api/datasets"): _list_repos,
    }.get((request.method, request.path))
    if account_route is not None:
        return account_route(hub, request)
    repo_type, repo_id, verb, rest = _split_path(request.path)
    needed, route = REPOSITORY_ROUTES.get((request.method, verb), (None, None))
    if route is None:
        raise HubError(404, None, f"no route for {request.method} {request.path}")
    repo = find_visible(hub, request, repo_type, repo_id)
    _let_in(hub, request, repo, needed, rest)
    return route(hub, request, repo, rest)


def _split_path(path: str) -> tuple[str, str, str, str]:
    """Path -> repository type, repository id, verb, and what follows it."""
    if match := re.fullmatch(r"/(?:(model|dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/(batch|verify)", path):
        return match[1] or "model", match[2], f"lfs-{match[3]}", ""
    if match := re.fullmatch(r"/(?:(model|dataset|space)s/)?([^/]+(?:/[^/]+)?)/resolve/(.+)", path):
        return match[1] or "model", match[2], "resolve", match[3]
    if match := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+)(?:/(.+))?", path):
        repo_type, repo_id, rest = match[1], match[2], match[3] or ""
        # A folder name that is not there is looked up as a repository of one word, and must be refused as one.
        if rest and rest.partition("/")[0] not in _VERBS:
            name, _, rest = rest.partition("/")
            repo_id = f"{repo_id}/{name}"
        verb, _, rest = rest.partition("/")
        return repo_type, repo_id, verb, rest
    raise HubError(404, None, f"no route for {path}")


def _authenticate(hub: LoopbackHub, request: Request) -> None:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if not token:
        return
    request.has_token = True
    request.read_only = token in hub.read_tokens
    request.user = hub.read_tokens.get(token) or hub.tokens.get(token)
    if request.user is None:
        raise HubError(401, None, "Invalid credentials in Authorization header")


def find_visible(hub: LoopbackHub, request: Request, repo_type: str, repo_id: str) -> Repository:
    """The repository, unless the asker must not know that it exists."""
    repo = hub.repositories.get((repo_type, repo_id))
    if repo is None or (repo.private and not hub.is_member(request.user, repo.namespace)):
        if request.user is None:
            raise HubError(401, "RepoNotFound", "Invalid username or password.")
        raise HubError(404, "RepoNotFound", "Repository not found")
    return repo


def _let_in(hub: LoopbackHub, request: Request, repo: Repository, needed: str, rest: str) -> None:
    if needed == "check":
        needed = "write" if rest == "write" else "read"
    if needed == "read":
        _require_access(hub, request, repo)
    elif needed == "propose":
        hub.require_user(request)
    elif needed == "commit":
        own = any(pr.ref == rest.replace("%2F", "/") and pr.author == request.user for pr in repo.pull_requests)
        if request.flag("create_pr") or own:
            hub.require_user(request)
        else:
            hub.require_writer(request, repo)
    elif needed == "write":
        hub.require_writer(request, repo)


def _require_access(hub: LoopbackHub, request: Request, repo: Repository) -> None:
    """Gated repositories show what they hold to everybody, and hand out files to those on their list."""
    if not repo.gated or request.user in repo.granted or hub.is_member(request.user, repo.namespace):
        return
    restricted = f"Access to {repo.repo_type} {repo.repo_id} is restricted"
    if request.user is None:
        raise HubError(
            401, "GatedRepo", f"{restricted}. You must have access to it and be authenticated. Please log in."
        )
    raise HubError(403, "GatedRepo", f"{restricted} and you are not in the authorized list. Ask for access.")


def _receive_lfs(hub: LoopbackHub, request: Request, sha256: str) -> Reply:
    """Store an LFS file. As with a signed address, the grant in the query stands for the token."""
    if request.method != "PUT":
        raise HubError(405, None, f"{request.method} is no way to upload")
    request.user = hub.granted_uploader(request.query.get("grant"), sha256)
    if request.user is None:
        raise HubError(403, None, "this upload was not granted")
    if not hub.store.receive(iter(request.body), sha256):
        raise HubError(400, None, f"the content sent does not hash to {sha256}")
    return Reply(200, headers={"ETag": f'"{sha256}"'})


def _whoami(hub: LoopbackHub, request: Request) -> Reply:
    if request.user is None:
        raise HubError(401, None, "Invalid username or password.")
    orgs = [name for name, members in hub.organizations.items() if request.user in members]
    role = "read" if request.read_only else "write"
    return json_reply(
        {
            "type": "user",
            "id": request.user,
            "name": request.user,
            "fullname": request.user,
            "orgs": [{"type": "org", "id": name, "name": name, "roleInOrg": "write"} for name in orgs],
            "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": role}},
        }
    )


def _validate_yaml(hub: LoopbackHub, request: Request) -> Reply:
    found: dict[str, list[dict[str, str]]] = {"errors": [], "warnings": []}
    try:
        if not reading.front_matter(request.json()["content"]):
            found["warnings"].append({"message": "empty or missing yaml metadata in repo card"})
    except ValueError as error:
        found["errors"].append({"message": str(error)})
    return json_reply(found, status=400 if found["errors"] else 200)


def _create_repo(hub: LoopbackHub, request: Request) -> Reply:
    hub.require_user(request)
    asked = request.json()
    repo_type, namespace = asked.get("type") or "model", asked.get("organization") or request.user
    repo_id = f"{namespace}/{asked['name']}"
    if not hub.is_member(request.user, namespace):
        message = f"You don't have the rights to create a {repo_type} under the namespace {namespace!r}"
        raise HubError(403, None, message)
    with hub.lock:
        repo = hub.repositories.get((repo_type, repo_id))
        answer = {"id": repo_id, "name": repo_id}
        if repo is not None:
            answer |= {
                "url": f"{request.base_url}/{repo.web_path}",
                "error": f"You already created this {repo_type} repo",
            }
            return json_reply(answer, status=409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        files = {".gitattributes": hub.gitattributes()}
        hub.add_repo(repo_id, files, repo_type=repo_type, private=private, author=request.user)
        repo = hub.repositories[repo_type, repo_id]
    return json_reply(answer | {"url": f"{request.base_url}/{repo.web_path}"})


def _delete_repo(hub: LoopbackHub, request: Request) -> Reply:
    hub.require_user(request)
    asked = request.json()
    repo_id = f"{asked.get('organization') or request.user}/{asked['name']}"
    repo = find_visible(hub, request, asked.get("type") or "model", repo_id)
    hub.require_writer(request, repo)
    del hub.repositories[repo.repo_type, repo.repo_id]
    return json_reply({})


def _list_repos(hub: LoopbackHub, request: Request) -> Reply:
    repo_type = "model" if request.path.endswith("models") else "dataset"
    author, search = request.query.get("author"), request.query.get("search", "").lower()
    found = [
        reading.repository_info(repo, repo.find("main"))
        for repo in list(hub.repositories.values())
        if repo.repo_type == repo_type
        and (not repo.private or hub.is_member(request.user, repo.namespace))
        and author in (None, repo.namespace)
        and search in repo.repo_id.lower()
    ]
    return json_reply(found)
