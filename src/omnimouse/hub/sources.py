"""What a name stands for, and bringing its files to this machine.

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
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from omnimouse.hub.errors import explained
from omnimouse.hub.names import PACKAGED_CORES, PACKAGED_FOLDER, PUBLISHED_CORES, core_name
from omnimouse.support.progress import ProgressLines, writes_lines
from omnimouse.support.version import __version__

RANK_FILE = re.compile(r"rank_(\d+)\.ckpt")

SMALL_FILES = (
    "config.json", "preprocessor_config.json", "adapter_config.json", "sessions/index.json", "scores.json", "README.md",
    ".gitattributes",
)  # fmt: skip
"""What is fetched to find out what a repo holds."""


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
    def is_offline(self) -> bool:
        """Whether the Hub is not to be asked."""
        return self.local_files_only or bool(constants.HF_HUB_OFFLINE)

    @property
    def reach(self) -> dict[str, Any]:
        """What of it holds for any repo, e.g. for that of an adapter's core."""
        return {name: getattr(self, name) for name in ("token", "cache_dir", "local_files_only")}

    @classmethod
    def take(cls, kwargs: dict[str, Any]) -> HubOptions:
        """Takes the options out of keyword arguments."""
        named = {name: kwargs.pop(name) for name in cls.__dataclass_fields__ if name in kwargs}
        return cls(**{name: value for name, value in named.items() if value is not None})

    @classmethod
    def only(cls, kwargs: dict[str, Any]) -> HubOptions:
        """The options that keyword arguments are; others are refused with a `ValueError`."""
        options = cls.take(kwargs)
        if kwargs:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"Unknown arguments {', '.join(kwargs)}; the options for the Hub are {known}.")
        return options


@dataclass(frozen=True)
class Source:
    """Where a model's files come from, and where they lie."""

    name: str  # what others can load it by: a packaged name, a repo, or an absolute folder
    folder: Path  # folder on this machine in which its files lie, or appear when they are fetched
    commit: str | None = None  # commit of the repo, or `None` where there is no repo
    options: HubOptions | None = None  # how to fetch more files; `None` where all are there
    core_sha256: str | None = None  # hash of its core, where it is known although the weights are not in the folder

    @property
    def is_packaged(self) -> bool:
        """Whether the model ships with the package."""
        return self.name in PACKAGED_CORES

    @property
    def is_stored_model(self) -> bool:
        """Whether it is a model or adapter in our stored layout, and not, say, a published checkpoint."""
        return (self.folder / "config.json").is_file() or (self.folder / "adapter_config.json").is_file()

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a checkpoint as the authors published theirs, one pickle per process."""
        if self.is_stored_model:
            return False
        if self.options is not None and self.options.is_offline and self.name in PUBLISHED_CORES.values():
            return True  # a converted copy needs no pickles, and they may have been deleted
        names = [path.name for path in self.folder.glob("*.ckpt")] if self.options is None else list_files(self)
        return any(RANK_FILE.fullmatch(name) for name in names)

    def fetch(self, patterns: Iterable[str]) -> None:
        """Brings the files that match patterns, which are relative to the source's folder."""
        if self.options is not None:
            fetch_files(self.name, self.options, patterns)


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
    core = core_name(name)
    if core in PACKAGED_CORES:
        return Source(core, PACKAGED_FOLDER / core)
    may_be_repo = re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith((".", "~"))
    if core is None and not may_be_repo:
        known = ", ".join((*PACKAGED_CORES, *PUBLISHED_CORES))
        raise ValueError(f"There is no model folder {text!r}, and no model of that name. Known names: {known}.")
    repo = text if core is None else PUBLISHED_CORES[core]
    with quiet():
        snapshot = fetch_files(repo, options, SMALL_FILES)
    # The cache knows a snapshot by its commit: from here on, the revision is this commit.
    return Source(repo, snapshot / options.subfolder, snapshot.name, replace(options, revision=snapshot.name))


def fetch_files(repo: str, options: HubOptions, patterns: Iterable[str], *, dataset: bool = False) -> Path:
    """Brings the files of a repo that match patterns, relative to its `subfolder`, into the Hub cache.

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
    if source.options.is_offline:
        found = [path for path in sorted(source.folder.rglob("*")) if path.is_file()]
        return {path.relative_to(source.folder).as_posix(): path.stat().st_size for path in found}
    prefix = f"{source.options.subfolder.strip('/')}/" if source.options.subfolder else ""
    with explained(source.name, source.commit):
        entries = hub_api(source.options.token).list_repo_tree(source.name, recursive=True, revision=source.commit)
        sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    return {name.removeprefix(prefix): sizes[name] for name in sorted(sizes) if name.startswith(prefix)}


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where copies that this package makes lie: in the cache asked for, `OMNIMOUSE_CACHE`, or beside the Hub cache."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "omnimouse"
    chosen = os.environ.get("OMNIMOUSE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(constants.HF_HUB_CACHE).expanduser().parent / "omnimouse"
