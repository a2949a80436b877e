"""Zipped session folders: unpacked once into a cache of one's own, never beside the archive.

The cache is the folder that `OMNIMOUSE_CACHE` names, or `omnimouse/` beside the Hub cache; copies lie in
`recordings-1/<name>-<fingerprint>/` and appear only when they are whole. Deleting one is safe.
"""

from __future__ import annotations

import glob
import hashlib
import json
import lzma
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from filelock import FileLock

from omnimouse.hub.sources import cache_folder
from omnimouse.recordings.data.findings import Findings
from omnimouse.support.progress import progress_bar

SENSORIUM_MEMBER = re.compile(r"(?P<root>(?:[^/]+/)*?)data/(?:videos|images)/[^/]+\.npy")
DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What reading an archive may raise; RuntimeError is also the parent of NotImplementedError."""

Members = dict[str, zipfile.ZipInfo]

RESERVE = 2**28
"""Bytes that unpacking leaves free on the disk."""


def unpacked_session(archive: Path, findings: Findings) -> Path | None:
    """The session folder of a zipped SENSORIUM session, unpacked on first use; None and a fatal finding otherwise."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive, findings)
            root = None if members is None else _session_root(members, archive, findings)
            return None if members is None or root is None else _in_cache(opened, archive, members, root, findings)
    except DAMAGE as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        do = "Copy or download it again; set OMNIMOUSE_CACHE if the place to unpack to cannot be written to."
        findings.fatal(archive, "archive", expected="a whole zip archive", found=found, do=do)
        return None


def _members(opened: zipfile.ZipFile, archive: Path, findings: Findings) -> Members | None:
    """Files of an archive by name, without what macOS adds; None when a name or kind is not safe to unpack."""
    members: Members = {}
    for entry in opened.infolist():
        parts = PurePosixPath(entry.filename).parts
        if entry.is_dir() or "__MACOSX" in parts or (parts and parts[-1].startswith("._")):
            continue
        fault = None
        if not parts or ".." in parts or entry.filename.startswith("/") or re.search(r"[\\:\0]", entry.filename):
            fault = "a name that leads out of the folder"
        elif stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            fault = "a link or special file"
        elif entry.flag_bits & 1:
            fault = "an encrypted file"
        if fault is not None:
            expected, found = "plain files inside one folder", f"{fault}: {entry.filename!r}"
            do = "Nothing was unpacked. Get the archive from its source, or unpack it yourself and pass the folder."
            findings.fatal(archive, "archive", expected=expected, found=found, do=do)
            return None
        members["/".join(parts)] = entry
    return members


def _session_root(members: Members, archive: Path, findings: Findings) -> str | None:
    """Folder inside the archive that is the session ("" if the archive itself is)."""
    roots = {match["root"] for match in map(SENSORIUM_MEMBER.fullmatch, members) if match is not None}
    if len(roots) == 1:
        return roots.pop().rstrip("/")
    expected = "one session in SENSORIUM's layout (data/videos/ or data/images/, data/responses/, ...)"
    found = f"{len(roots)} sessions ({', '.join(sorted(roots)[:3])})" if roots else "none"
    do = "Unpack the archive and pass the session's folder."
    findings.fatal(archive, "archive", expected=expected, found=found, do=do)
    return None


def _in_cache(opened: zipfile.ZipFile, archive: Path, members: Members, root: str, findings: Findings) -> Path | None:
    name = PurePosixPath(root).name or archive.stem
    below = f"{root}/" if root else ""
    inside = {member[len(below) :]: entry for member, entry in members.items() if member.startswith(below)}
    table = sorted((member, entry.file_size, entry.CRC) for member, entry in inside.items())
    fingerprint = hashlib.sha256(json.dumps(table).encode()).hexdigest()[:16]
    target = cache_folder() / "recordings-1" / f"{name}-{fingerprint}"
    # The session's own name is kept, because it tells animal, session and scan.
    if (target / name).is_dir():
        return target / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if (target / name).is_dir():
            return target / name
        for left in target.parent.glob(f".{glob.escape(target.name)}.*/"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        needed = sum(entry.file_size for entry in inside.values())
        free = shutil.disk_usage(target.parent).free
        if needed + RESERVE > free:
            expected = f"{needed / 2**30:.1f} GiB free in {target.parent} to unpack it once"
            do = "Set OMNIMOUSE_CACHE to a folder on a larger disk, or unpack it yourself and pass the folder."
            findings.fatal(archive, "archive", expected=expected, found=f"{free / 2**30:.1f} GiB", do=do)
            return None
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            # A session may have 20 GB; what is done at once leaves no line.
            with progress_bar(total=needed, desc=f"unpacking {name}", unit="B", unit_scale=True, leave=False) as bar:
                for member, entry in inside.items():
                    file = temporary / name / member
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(entry) as source, file.open("xb") as sink:
                        shutil.copyfileobj(source, sink, 2**20)
                    bar.update(entry.file_size)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target / name
