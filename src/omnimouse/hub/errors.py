"""Errors of the Hub client as ones that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from omnimouse.hub.names import missing_note


@contextmanager
def explained(repo: str, revision: str | None, *, dataset: bool = False) -> Iterator[None]:
    """Turns errors of the Hub client into ones that say what to do.

    Raises:
        OSError: The Hub has no such repo or revision, does not give it to this token, or cannot be reached.
        ValueError: The repo's name cannot be one.
    """
    page = f"datasets/{repo}" if dataset else repo
    kind = f"dataset {repo!r}" if dataset else f"repo {repo!r} (nor is there a folder of that name)"
    named = f"{repo}" + (f" (revision {revision})" if revision else "")
    try:
        yield
    except GatedRepoError as error:
        raise OSError(
            f"{named} is gated. Accept its terms at {constants.ENDPOINT}/{page}, then log in with `hf auth login`, "
            "set HF_TOKEN or pass token=..."
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"The Hub has no {kind}, or it is private and the token does not open it. {missing_note(repo)}Check the "
            "name; if it is private, log in with `hf auth login`, set HF_TOKEN or pass token=..."
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(f"{repo} has no revision {revision!r}. Pass a branch, a tag or a commit that it has.") from error
    except LocalEntryNotFoundError as error:
        # The client reports a server that refuses or cannot be reached in the same way as a cache that lacks a file.
        reason = error.__cause__
        if isinstance(reason, OfflineModeIsEnabled) or reason is None:
            raise OSError(
                f"{named} is not in the cache, or not all that is asked for, and this session is offline. Load it once "
                "online (without local_files_only, HF_HUB_OFFLINE unset)."
            ) from error
        raise OSError(f"{named} is not in the cache, and the Hub cannot be asked for it: {reason}") from error
    except HFValidationError as error:
        raise ValueError(f"{repo!r} cannot be the name of a repo ({error}). Names look like user/model.") from error
    except HfHubHTTPError as error:
        raise OSError(f"The Hub refused {named}: {error}{_token_hint(error)}") from error
    except Exception as error:
        # Which library the client speaks HTTP with depends on its version.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        raise OSError(f"The Hub cannot be reached for {named}: {error}. Try again.") from error


def _token_hint(error: HfHubHTTPError) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return " There is no token, or an invalid one: log in with `hf auth login`, set HF_TOKEN or pass token=..."
    if status == 403:
        return " The token may not do this: it needs the right to write to this repo."
    return ""
