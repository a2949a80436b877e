"""Routes that steer a running server, for tests that started it in another process.

`GET /_control/log`, `GET /_control/state`, and `POST /_control` with `{"action": name, ...arguments}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import Reply, Request, error_reply, json_reply
from .repositories import HubError

if TYPE_CHECKING:
    from . import LoopbackHub

PREFIX = "/_control"


def respond(hub: LoopbackHub, request: Request) -> Reply:
    try:
        if request.method == "GET" and request.path == f"{PREFIX}/log":
            return json_reply([entry.to_json() for entry in hub.log])
        if request.method == "GET" and request.path == f"{PREFIX}/state":
            return json_reply(_state(hub))
        if request.method == "POST" and request.path == PREFIX:
            return json_reply(_act(hub, **request.json()))
        raise HubError(404, None, f"no route for {request.method} {request.path}")
    except HubError as error:
        return error_reply(error)
    except (TypeError, ValueError, OSError) as error:
        return error_reply(HubError(400, None, f"{type(error).__name__}: {error}"))


def _state(hub: LoopbackHub) -> dict[str, Any]:
    repositories = [
        {
            "repo_type": repo.repo_type,
            "repo_id": repo.repo_id,
            "private": repo.private,
            "gated": repo.gated,
            "branches": dict(repo.branches),
        }
        for repo in list(hub.repositories.values())
    ]
    return {"mode": hub.mode, "repositories": repositories, "uploaded": dict(hub.uploaded)}


def _act(hub: LoopbackHub, action: str, **arguments: Any) -> dict[str, Any]:
    actions = {
        "answer": hub.faults.answer,
        "delay": hub.faults.delay,
        "drop_upload": hub.faults.drop_upload,
        "drop_download": hub.faults.drop_download,
        "clear_faults": hub.faults.clear,
        "clear_log": hub.clear_log,
        "add_repo": hub.add_repo,
    }
    if action not in actions:
        raise HubError(400, None, f"unknown action {action!r}: one of {', '.join(actions)}")
    if action == "add_repo":
        arguments["files"] = Path(arguments["files"])
    return {"result": actions[action](**arguments)}
