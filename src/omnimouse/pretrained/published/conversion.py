"""Published checkpoints to our stored layout, file by file, and the cache of converted copies.

Memory stays near the core plus one rank file's sessions: tensors are memory-mapped, sessions are written one at a time,
and a rank file is let go before the next one is opened.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import constants

from omnimouse.hub.names import PUBLISHED_CORES, missing_note
from omnimouse.hub.sources import RANK_FILE, HubOptions, Source, cache_folder, find, list_files
from omnimouse.model.core_identity import core_settings
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.session_tables.initial_vectors import InitialVectors
from omnimouse.pretrained.cards.card_writer import CardOptions
from omnimouse.pretrained.model_folder import write_model_folder
from omnimouse.pretrained.published.checkpoint_files import rank_files, warn_of_missing_sessions
from omnimouse.pretrained.published.models import build_core, open_published
from omnimouse.pretrained.session_files import write_index, write_session
from omnimouse.support.files import hash_file, read_mapping, write_json
from omnimouse.support.progress import progress_bar
from omnimouse.support.version import __version__

RECORD = "conversion.json"
"""Says what a converted folder was made of; the last file that a conversion writes."""

CONVERTED = "converted-1"
"""Where copies lie in the cache; the number rises when conversion changes what it writes, so that none is reused."""


def convert(
    source: str | Path,
    out: str | Path,
    *,
    size: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Writes a published checkpoint as a model folder, which opens like any other.

    Args:
        source: Folder of `rank_<r>.ckpt` files, a published core (`"omnimouse-80m"`) or a repo of that kind.
        out: Folder to write; it must be empty or not exist.
        size: Name of a preset that every tensor must fit; by default sizes are read off the tensors.
        revision: Branch, tag or commit of a repo.
        token: Access token of a repo.
        cache_dir: Cache for the downloaded files, instead of the Hub's own.
        progress: Show a progress bar, in bytes.

    Returns:
        The folder.

    Raises:
        ValueError: The source is no published checkpoint, cannot be read safely or does not fit; or `out` is not empty.
        OSError: The Hub does not give the files.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty. Choose a folder that does not exist yet.")
    found = find(source, HubOptions(revision=revision, token=token, cache_dir=cache_dir))
    if found.is_stored_model:
        raise ValueError(f"{source} is in our layout already: there is nothing to convert, from_pretrained loads it.")
    found.fetch(["rank_*.ckpt"])
    _write_converted(found, out, size=size, progress=progress)
    return out


def cached_copy(source: Source) -> Path | None:
    """The converted copy of a published repo if it was made already."""
    target = _place_of_copy(source)
    return target if (target / RECORD).is_file() else None


def _place_of_copy(source: Source) -> Path:
    assert source.options is not None and source.commit is not None
    parts = [part for part in (*source.name.split("/"), *source.options.subfolder.split("/")) if part]
    return cache_folder(source.options.cache_dir) / CONVERTED / "--".join(parts) / source.commit


def converted_repo(source: Source) -> Path:
    """The converted copy of a published repo, pinned to a commit; made on first use.

    Raises:
        ValueError: It holds neither a model nor a published checkpoint.
        OSError: The Hub does not give the files.
    """
    assert source.options is not None
    target, copy = _place_of_copy(source), cached_copy(source)
    if copy is not None and not source.options.force_download:
        return _reused(copy, source.name)
    names = list(list_files(source))
    if not any(RANK_FILE.fullmatch(name) for name in names):
        raise ValueError(
            f"{source.name} holds no model: neither config.json nor rank_<r>.ckpt files (it holds "
            f"{', '.join(names[:8]) or 'nothing'}). {missing_note(source.name)}".rstrip()
        )
    source.fetch(["rank_*.ckpt"])
    whole = bool(source.options.local_files_only or constants.HF_HUB_OFFLINE)
    return _convert_into_cache(source, target, whole=whole, anew=copy is not None)


def converted_folder(folder: Path, cache_dir: str | Path | None = None) -> Path:
    """The converted copy of a local folder of rank files, made on first use and reused while the files are the same."""
    name = folder.resolve().name or "checkpoint"
    target = cache_folder(cache_dir) / CONVERTED / "local" / f"{name}-{records_hash(rank_files(folder))[:16]}"
    if (target / RECORD).is_file():
        return _reused(target, str(folder))
    return _convert_into_cache(Source(str(folder.resolve()), folder), target)


def _reused(copy: Path, name: str) -> Path:
    """A copy that was made earlier; what was missing then still is, and is told again."""
    record = read_mapping(copy / RECORD, "what a converted folder was made of")
    warn_of_missing_sessions(name, record.get("sessions_without_file", []))
    return copy


def records_hash(files: Mapping[int, Path]) -> str:
    """SHA-256 over the record tables of rank files: names, sizes and CRC-32 of all that is in them.

    Files that were written without CRC-32 are read as a whole.

    Raises:
        ValueError: A file is no zip archive, as `torch.save` writes them.
    """
    digest = hashlib.sha256()
    for rank, path in sorted(files.items()):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                records = [(entry.filename, entry.file_size, entry.CRC) for entry in entries]
            if any(entry.file_size and not entry.CRC for entry in entries):
                hash_file(path, digest)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} cannot be read as a checkpoint ({error}). Copy or download it again.") from None
        digest.update(json.dumps([rank, records]).encode())
    return digest.hexdigest()


def _convert_into_cache(source: Source, target: Path, *, whole: bool = False, anew: bool = False) -> Path:
    """Converts into a folder of the cache, with `anew` in place of a copy that is there.

    Other processes that want the same copy wait for it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if anew:
                shutil.rmtree(target)
            if not (target / RECORD).is_file():
                for left in target.parent.glob(f".{glob.escape(target.name)}.*/"):  # by conversions that were killed
                    shutil.rmtree(left, ignore_errors=True)
                _write_converted(source, target, whole=whole)
    except PermissionError as error:
        raise OSError(
            f"The converted copy of {source.name} cannot be written to {target.parent} ({error}). Set OMNIMOUSE_CACHE "
            "to a folder that can be written to, or convert it once with `omnimouse convert`."
        ) from error
    return target


def _write_converted(
    source: Source, out: Path, *, size: str | None = None, progress: bool = True, whole: bool = False
) -> None:
    """Converts into `out`, which appears whole or not at all; with `whole`, no rank file may be missing."""
    checkpoint, name = open_published(source.folder, size), source.name
    files = checkpoint.files
    if whole and files.missing_sessions:
        raise OSError(
            f"{name} is not in the cache as a whole (no file with session {files.missing_sessions[0]}), and this "
            "session is offline. Load it once online (without local_files_only, HF_HUB_OFFLINE unset)."
        )
    _warn_of_other_size(name, checkpoint.size)
    core_bytes = sum(tensor.nbytes for tensor in files.core.values())
    width = checkpoint.config.identity_size
    total = core_bytes + sum(4 * (files.specs[key].n_neurons + 2) * (width + 1) for key in files.tables)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < total:
        raise OSError(f"{out.parent} has {free / 1e9:.1f} GB left, but {name} needs {total / 1e9:.1f} GB. Make room.")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        work = Path(place) / "model"
        initial, index, settings = InitialVectors(), {}, core_settings(checkpoint.config)
        bar = progress_bar(total=total, desc=f"converting {name}", unit="B", unit_scale=True, shown=progress)
        with bar:
            for spec, tensors in files.sessions():
                index[spec.key] = write_session(work, spec, tensors, settings)
                initial.add(spec, tensors)
                bar.update(sum(tensor.nbytes for tensor in tensors.values()))
                del tensors
            write_index(work, index)
            model = build_core(files.core, checkpoint.config, OmniMouseNetwork)
            initial.put_into(model.identity.initial)
            model.processor = OmniMouseProcessor(profile="published")
            write_model_folder(model, work, source=source, sessions="all", card=CardOptions())
            bar.update(total - bar.n)
        record = {
            "source": name if source.commit else Path(name).name,
            "commit": source.commit,
            "records_sha256": records_hash(files.files),
            "files": {path.name: path.stat().st_size for path in files.files.values()},
            "sessions_without_file": files.missing_sessions,
            "omnimouse_version": __version__,
            "torch_version": str(torch.__version__),
        }
        write_json(work / RECORD, record)
        if out.exists():
            out.rmdir()  # empty: a folder that holds anything was refused
        os.rename(work, out)


def _warn_of_other_size(name: str, size: str | None) -> None:
    """A repo that does not hold the size it is named after still opens; the user is told."""
    expected = {repo: alias.removeprefix("omnimouse-") for alias, repo in PUBLISHED_CORES.items()}.get(name)
    if expected is not None and expected != size:
        warnings.warn(
            f"{name} does not hold a model of the size it is named after (found: {size or 'another'}).", stacklevel=2
        )
