"""Names of models, what they stand for, and bringing their files to this machine.

A model is opened from a folder, whatever it was named by: `find` turns a name into a `Source`, whose folder holds the
small files (configuration, list of sessions); `Source.fetch` then brings the files that are wanted. A revision is
resolved once, so that core and sessions always come from one commit.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from omnimouse.support.progress import ProgressLines, writes_lines
from omnimouse.support.version import __version__

PACKAGED_CORES = ("omnimouse-tiny",)
PACKAGED_FOLDER = Path(__file__).parent / "cores"

PUBLISHED_CORES: MappingProxyType[str, str] = MappingProxyType(
    {f"omnimouse-{size.lower()}": f"the-enigma-project/omnimouse-{size}" for size in ("1M", "5M", "20M", "80M", "300M")}
)
"""Names of the authors' cores -> their repos, which hold one pickle per process of the training run."""

RANK_FILE = re.compile(r"rank_(\d+)\.ckpt")

SMALL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "adapter_config.json",
    "sessions/index.json",
    "scores.json",
    "README.md",
    ".gitattributes",
)
"""What is fetched to find out what a repo holds."""

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubOptions:
    """How to reach a Hub repo; the arguments of `from_pretrained` of the same names.

    Args:
        revision: Branch, tag or commit; the main branch by default.
        token: Access token, `True` for the stored one, `False` for none; the stored one if there is one by default.
        cache_dir: Cache folder, instead of the Hub's own.
        local_files_only: Use what is in the cache, and nothing else.
        force_download: Fetch files anew although they are in the cache.
        subfolder: Folder of the repo in which the model lies.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""

    @property
    def reach(self) -> dict[str, Any]:
        """What of it holds for any repo, e.g. for that of an adapter's core."""
        return {name: getattr(self, name) for name in ("token", "cache_dir", "local_files_only")}

    @classmethod
    def take(cls, kwargs: dict[str, Any]) -> HubOptions:
        """Takes the options out of keyword arguments."""
        named = {name: kwargs.pop(name) for name in cls.__dataclass_fields__ if name in kwargs}
        return cls(**{name: value for name, value in named.items() if value is not None})


@dataclass(frozen=True)
class Source:
    """Where a model's files come from, and where they lie.

    Args:
        name: What others can load it by: a packaged name, a repo, or an absolute folder.
        folder: Folder on this machine in which its files lie, or appear when they are fetched.
        commit: Commit of the repo, or `None` where there is no repo.
        options: How to fetch more files; `None` where all are there.
        core_sha256: Hash of its core, where it is known although the weights are not in the folder.
    """

    name: str
    folder: Path
    commit: str | None = None
    options: HubOptions | None = None
    core_sha256: str | None = None

    @property
    def is_packaged(self) -> bool:
        """Whether the model ships with the package."""
        return self.name in PACKAGED_CORES

    @property
    def is_stored_model(self) -> bool:
        """Whether it is a model or adapter in our stored layout, and not, say, a published checkpoint."""
        return (self.folder / "config.json").is_file() or (self.folder / "adapter_config.json").is_file()

    @property
    def holds_rank_files(self) -> bool:
        """Whether it is a checkpoint as the authors published theirs, one pickle per process."""
        names = list_files(self) if self.options else [path.name for path in self.folder.glob("*.ckpt")]
        return any(RANK_FILE.fullmatch(name) for name in names)

    def fetch(self, patterns: Iterable[str]) -> None:
        """Brings the files that match patterns, which are relative to the source's folder."""
        if self.options is not None:
            download(self.name, self.options, patterns)


def find(name: str | Path, options: HubOptions | None = None) -> Source:
    """Finds what a name stands for, without converting anything; of a repo, only the small files are fetched.

    Args:
        name: A folder, a packaged name, the name of a published core (case and underscores do not matter), or a repo.
        options: How to reach the Hub.

    Raises:
        ValueError: Nothing has that name, or the folder or repo holds nothing that can be opened.
        OSError: The Hub has no such repo or revision, does not give it to this token, or cannot be reached.
    """
    options = options or HubOptions()
    text, folder = str(name), Path(name).expanduser()
    if folder.exists():
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file; models and session adapters are folders. Pass the folder.")
        folder = (folder / options.subfolder).resolve()  # sessions may be asked for from another working directory
        return Source(str(folder), folder)
    alias = text.lower().replace("_", "-")
    if alias in PACKAGED_CORES:
        return Source(alias, PACKAGED_FOLDER / alias)
    if alias not in PUBLISHED_CORES and not _may_be_repo(text):
        known = ", ".join((*PACKAGED_CORES, *PUBLISHED_CORES))
        raise ValueError(f"There is no model folder {text!r}, and no model of that name. Known names: {known}.")
    repo = PUBLISHED_CORES.get(alias, text)
    with quiet():
        snapshot = download(repo, options, SMALL_FILES)
    # The cache knows a snapshot by its commit: from here on, the revision is this commit.
    return Source(repo, snapshot / options.subfolder, snapshot.name, replace(options, revision=snapshot.name))


def is_core_name(name: object) -> bool:
    """Whether something is the name of a packaged or published core, as `find` reads it, and no folder here."""
    alias = str(name).lower().replace("_", "-")
    return (alias in PACKAGED_CORES or alias in PUBLISHED_CORES) and not Path(str(name)).exists()


def _may_be_repo(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith((".", "~"))


def download(repo: str, options: HubOptions, patterns: Iterable[str], *, dataset: bool = False) -> Path:
    """Brings the files of a repo that match patterns into the Hub cache.

    Args:
        repo: The repo.
        options: How to reach it; patterns are relative to its `subfolder`.
        patterns: File names, with wildcards.
        dataset: Whether it is a dataset, and not a model.

    Returns:
        The snapshot's folder, named after the commit.

    Raises:
        OSError: The Hub has no such repo or revision, does not give it to this token, or cannot be reached.
    """
    prefix = f"{glob.escape(options.subfolder.strip('/'))}/" if options.subfolder else ""
    # Where there is no terminal, the library's own bar shows nothing. Any: it asks for a class of tqdm's asyncio.
    lines: Any = ProgressLines if writes_lines() and not are_progress_bars_disabled() else None
    with explained(repo, options.revision, dataset=dataset):
        folder = snapshot_download(
            repo,
            repo_type="dataset" if dataset else None,
            revision=options.revision,
            token=options.token,
            cache_dir=options.cache_dir,
            local_files_only=options.local_files_only,
            force_download=options.force_download,
            allow_patterns=[prefix + pattern for pattern in patterns],
            library_name="omnimouse",
            library_version=__version__,
            tqdm_class=lines,
        )
    return Path(folder)


def hub_api(token: str | bool | None = None) -> HfApi:
    """The Hub's API, under this package's name."""
    return HfApi(token=token, library_name="omnimouse", library_version=__version__)


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and remarks: small files take no time, and a published repo has hardly any."""
    log = logging.getLogger("huggingface_hub._snapshot_download")
    level, bars = log.level, not are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            enable_progress_bars()


def list_files(source: Source) -> dict[str, int]:
    """Names and sizes in bytes of all files in a located repo, whether they are in the cache or not.

    Raises:
        OSError: The Hub cannot be reached.
    """
    assert source.options is not None
    if source.options.local_files_only or constants.HF_HUB_OFFLINE:
        found = [path for path in sorted(source.folder.rglob("*")) if path.is_file()]
        return {path.relative_to(source.folder).as_posix(): path.stat().st_size for path in found}
    prefix = f"{source.options.subfolder.strip('/')}/" if source.options.subfolder else ""
    with explained(source.name, source.commit):
        entries = hub_api(source.options.token).list_repo_tree(source.name, recursive=True, revision=source.commit)
        sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    return {name.removeprefix(prefix): sizes[name] for name in sorted(sizes) if name.startswith(prefix)}


@contextmanager
def explained(repo: str, revision: str | None, *, dataset: bool = False) -> Iterator[None]:
    """Turns errors of the Hub client into ones that say what to do.

    Args:
        repo: The repo that is asked for.
        revision: The revision that is asked for.
        dataset: Whether it is a dataset, and not a model.

    Raises:
        OSError: As `find` says.
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


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where copies that this package makes lie: in the cache asked for, `OMNIMOUSE_CACHE`, or beside the Hub cache."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "omnimouse"
    chosen = os.environ.get("OMNIMOUSE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(constants.HF_HUB_CACHE).expanduser().parent / "omnimouse"


def missing_note(repo: str) -> str:
    """What to say of a published repo that may well be missing; a sentence and a space, or nothing."""
    if repo == PUBLISHED_CORES["omnimouse-300m"]:
        return "The 300M weights were announced, but had not been uploaded when the other sizes were released. "
    return ""


def _token_hint(error: HfHubHTTPError) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return " There is no token, or an invalid one: log in with `hf auth login`, set HF_TOKEN or pass token=..."
    if status == 403:
        return " The token may not do this: it needs the right to write to this repo."
    return ""
