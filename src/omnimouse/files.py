"""Writing files whole or not at all, and reading JSON and tensors with errors that say what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names that safetensors files give to types."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        make_readable(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged_folders(*places: Path) -> Iterator[tuple[Path, ...]]:
    """Yields a folder for each place and one more for scratch; they take their names when all went well, or vanish.

    The first place is renamed last: once it is there, the others are too.

    Raises:
        ValueError: something lies at a place that is not an empty folder, or appeared there meanwhile.
    """
    for place in places:
        if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise ValueError(f"{place}: exists and is not an empty folder; remove it or choose another folder.")
    parent = places[0].parent
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{places[0].name}.", suffix=".partial", dir=parent))
    try:
        parts = tuple(work / str(number) for number in range(len(places) + 1))
        for part in parts:
            part.mkdir()
        yield parts
        for part, place in reversed(list(zip(parts, places, strict=False))):
            try:
                if place.exists():
                    place.rmdir()
                os.replace(part, place)
            except OSError as error:
                raise ValueError(f"{place}: appeared while it was written ({error}); choose another folder.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new file; temporary and safetensors files are private to their owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically; names of files that are no text are escaped in it."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # line endings stay as they are


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Reads JSON, or raises `ValueError` saying what the file should have been."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; it should hold {what}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} should hold {what} as JSON, but cannot be read: {error}.") from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object, or raises `ValueError` saying what the file should have been."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold {what}, a JSON object, but holds a {type(content).__name__}.")
    return content


ALIGNMENT = 64
"""Bytes: cache lines, and what `sessions.aligned` asks for."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, atomically, in which tensors begin at multiples of 64 bytes as far as possible.

    The library's own writer places them at any multiple of 8, so that after loading all have to be copied (see
    `sessions.aligned`). Here the header is padded with spaces and tensors of odd sizes come last, both of which the
    format allows: https://github.com/huggingface/safetensors#format.
    """
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(_bytes(tensors[name]))


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def open_tensors(path: Path) -> Iterator[safe_open]:
    """Opens a safetensors file, or raises `ValueError` saying what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}). Copy or download it again.") from None


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in sorted order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()
