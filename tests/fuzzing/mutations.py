"""What may happen to a session: each mutation changes a tree in place and says what it did.

All randomness comes from the generator that is passed, so that a seed gives the same damage everywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml
from numpy.lib import format as npy_format

from fuzzing.sessions import Special, Tree, npy

NUMBERS = (0, -1, 1, 3, 1.5, 2**31, 2**63, -(2**63), 1e-300, 1e300, -1e300, 1e-9, 1e9, 1e15, float("nan"), float("inf"))
ODD_VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "30", "train", "../../x", "/etc/passwd", "a\0b", "\n", "x" * 5000, [], {}, [1, 2],
    [[]], {"a": {"b": 1}}, [36, 64], [8, 6], [True, 8], [10**30, 8], "sequence", "video", "float32", "O", "V0", "U8",
    "<f8,<i4", "M8[s]", "c16", 10**400, "2020-01-01", -0.0,
)  # fmt: skip
ODD_TEXTS = (
    b"", b"[]", b"null", b"3", b"{", b"a: [", b"\xff\xfe\x00", "\ufeffmodality: video".encode("utf-16"),
    b"a: 1\n---\nb: 2",
    b"? [a]\n: 1\n", b"1: 2\n", b"!!python/object/apply:os.system ['true']", b"a: &a [*a]\nmodality: *a\ntier: *a\n",
    b"\t- x", b'{"a": NaN}', b'{"scan_key": [1]}', b"[" * 3000, b"[" * 100_000,
    b"- " * 100_000, b"{" * 3000, b"modality: 2020-13-45",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", b"modality: 0x" + b"f" * 6000,
)  # fmt: skip
LAUGHS = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" if i else "l0: &l0 [ha, ha]\n" for i in range(12))
DTYPES = ("O", "<f2", "<f4", ">f8", "<f8", "<i8", "|u1", "|b1", "<c16", "<U4", "|S3", "<M8[s]", "|V4", [("a", "<f4")])
LINKS = (".", "..", "nowhere", "/dev/null", "/dev/zero", "/proc/self/environ", "data.npy", "timestamps.npy")


def _file(tree: Tree, rng: random.Random, suffix: str = "") -> str:
    names = [name for name in tree if name.endswith(suffix) and isinstance(tree[name], bytes)]
    if not names:
        raise LookupError
    # By folder first: otherwise most of the damage goes to the many trial files.
    folders = sorted({name.rpartition("/")[0] for name in names})
    chosen = rng.choice(folders)
    return rng.choice(sorted(name for name in names if name.rpartition("/")[0] == chosen))


def _content(tree: Tree, name: str) -> bytes:
    content = tree[name]
    assert isinstance(content, bytes)
    return content


def flip_bytes(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    content = bytearray(_content(tree, name))
    if not content:
        raise LookupError
    end = min(len(content), rng.choice((10, 128, len(content))))
    for _ in range(rng.choice((1, 1, 4, 30))):
        content[rng.randrange(end)] = rng.randrange(256)
    tree[name] = bytes(content)
    return f"bytes flipped in {name}"


def truncate(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    content = _content(tree, name)
    tree[name] = content[
        : rng.choice((0, 1, 5, len(content) // 2, max(len(content) - 1, 0), rng.randint(0, len(content))))
    ]
    return f"{name} cut to {len(_content(tree, name))} bytes"


def extend(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    content = _content(tree, name)
    tree[name] = content + rng.choice((b"\0", b"\n", content, rng.randbytes(100)))
    return f"{name} with bytes after its end"


def remove(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    del tree[name]
    return f"no {name}"


def rename(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    folder, _, last = name.rpartition("/")
    new = rng.choice((f"{last}~", last.upper(), f"0{last}", last.replace("0", "9"), f"._{last}", "data.mem", "é.npy"))
    tree[f"{folder}/{new}".lstrip("/")] = tree.pop(name)
    return f"{name} renamed to {new}"


def swap_files(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    other = _file(tree, rng, rng.choice((name.rpartition(".")[2], "")))
    tree[name], tree[other] = tree[other], tree[name]
    return f"{name} and {other} exchanged"


def duplicate(tree: Tree, rng: random.Random) -> str:
    name, other = _file(tree, rng), _file(tree, rng)
    folder, _, last = name.rpartition("/")
    new = rng.choice((other, f"{folder}/copy of {last}", f"deeper/{name}", re.sub(r"\d", "7", name)))
    tree[new.lstrip("/")] = tree[name]
    return f"{name} copied to {new}"


def folders(tree: Tree, rng: random.Random) -> str:
    """A whole folder removed, renamed, moved into another or replaced."""
    every = sorted({name[: match.start()] for name in tree for match in re.finditer("/", name)})
    if not every:
        raise LookupError
    chosen, what = rng.choice(every), rng.choice(("gone", "renamed", "nested", "a file", "a link", "empty"))
    inside = [name for name in tree if name.startswith(f"{chosen}/")]
    moved = {name: tree.pop(name) for name in inside}
    if what in ("renamed", "nested"):
        new = f"{chosen}_2" if what == "renamed" else f"{chosen}/{chosen.rpartition('/')[2]}"
        tree.update({new + name[len(chosen) :]: content for name, content in moved.items()})
    elif what != "gone":
        contents = {"a file": b"text", "a link": Special("link", rng.choice(LINKS)), "empty": Special("folder")}
        tree[chosen] = contents[what]
    return f"folder {chosen} {what}"


def replace(tree: Tree, rng: random.Random) -> str:
    name = _file(tree, rng)
    tree[name] = rng.choice((Special("folder"), Special("fifo"), Special("link", rng.choice(LINKS)), b""))
    return f"{name} replaced by {tree[name]}"


def text(tree: Tree, rng: random.Random) -> str:
    """Another text, or other lines, in a YAML or JSON file."""
    name = _file(tree, rng, rng.choice((".yml", ".yml", ".json")))
    lines = _content(tree, name).decode("utf-8", "replace").splitlines()
    what = rng.choice(("other", "twice", "without", "exchanged", "laughs", "alias"))
    if what == "other" or not lines:
        tree[name] = rng.choice(ODD_TEXTS)
        return f"{name} is {_content(tree, name)[:30]!r}"
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    if what == "twice":
        lines.insert(to, lines[at])
    elif what == "without":
        del lines[at]
    elif what == "exchanged":
        lines[at], lines[to] = lines[to], lines[at]
    else:  # references that multiply, in the place of a value
        key = lines[at].partition(":")[0]
        lines = [
            *LAUGHS.splitlines(),
            *lines[:at],
            f"{key}: {'*l11' if what == 'laughs' else '&r [*r]'}",
            *lines[at + 1 :],
        ]
    tree[name] = "\n".join(lines).encode()
    return f"{name} with lines {what}"


def value(tree: Tree, rng: random.Random) -> str:
    """Another value, or none, of a key of a YAML or JSON file."""
    name = _file(tree, rng, rng.choice((".yml", ".yml", ".json")))
    try:
        parsed = yaml.safe_load(_content(tree, name)[:5000])
    except (yaml.YAMLError, ValueError, RecursionError):
        raise LookupError from None
    if not isinstance(parsed, dict) or not parsed:
        raise LookupError
    place = parsed
    key = rng.choice(sorted(parsed, key=str))
    if isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
        place = place[key]
        key = rng.choice(sorted(place, key=str))
    if rng.random() < 0.2:
        del place[key]
        done = f"no {key} in {name}"
    else:
        new = rng.choice(ODD_VALUES)
        if isinstance(place[key], (int, float)) and rng.random() < 0.3:
            new = place[key] * rng.choice((0.5, 2, 1e3, 1e-3, -1)) + rng.choice((0, 1))
        place[key] = new
        done = f"{key} of {name} is {str(new)[:40]}"
    try:
        dumped = json.dumps(parsed) if name.endswith(".json") else yaml.safe_dump(parsed)
    except ValueError:  # an alias that an earlier mutation wrote may refer to itself
        dumped = yaml.safe_dump(parsed)
    tree[name] = dumped.encode("utf-8", "surrogatepass")
    return done


def header(tree: Tree, rng: random.Random) -> str:
    """A `.npy` header that claims something else about the bytes that follow."""
    name = _file(tree, rng, ".npy")
    array = _array(tree, name)
    if array is None:
        raise LookupError
    shape: Any = list(array.shape)
    claim = rng.choice(("huge", "large", "zero", "negative", "more", "fewer", "text", "same"))
    at = rng.randrange(len(shape)) if shape else 0
    if claim in ("huge", "large", "zero", "negative", "more") and shape:
        shape[at] = {"huge": 10**15, "large": 2 * 10**9, "zero": 0, "negative": -1, "more": shape[at] + 1}[claim]
    elif claim == "fewer":
        shape = shape[1:]
    shape = "many" if claim == "text" else tuple(shape)
    descr = rng.choice((*DTYPES, *([array.dtype.str] * len(DTYPES))))
    head = {"descr": descr, "fortran_order": rng.random() < 0.2, "shape": shape}
    body = repr(head).encode() + b" " * rng.choice((0, 7, 20_000)) + b"\n"
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    length = len(body).to_bytes(2 if version[0] == 1 else 4, "little", signed=False)
    tree[name] = b"\x93NUMPY" + version + length + body + array.tobytes()
    return f"{name} claims {head} in version {version[0]}"


def _array(tree: Tree, name: str) -> np.ndarray | None:
    try:
        return npy_format.read_array(io.BytesIO(_content(tree, name)), allow_pickle=False)
    except Exception:  # damaged by another mutation before
        return None


def numbers(tree: Tree, rng: random.Random) -> str:
    """Odd numbers in an array: a few, a row, a column, or all."""
    name = _file(tree, rng, rng.choice((".npy", ".npy", ".npy", ".mem")))
    content = _content(tree, name)
    array = _array(tree, name) if name.endswith(".npy") else np.frombuffer(content, "<f4", len(content) // 4).copy()
    if array is None or not array.size or array.dtype.kind not in "fiub":
        raise LookupError
    number = rng.choice((*NUMBERS, float("-inf"), 1e38, 1e-40))
    array = array.astype(rng.choice((np.float64, np.float32, array.dtype.type)))
    where: Any = rng.choice((slice(None), 0, -1, (..., 0), rng.randrange(len(array)) if array.ndim else ()))
    if rng.random() < 0.3:
        where = np.array([rng.random() < 0.2 for _ in range(array.size)]).reshape(array.shape)
    with np.errstate(all="ignore"):
        array[where] = np.asarray(number, dtype=np.float64).astype(array.dtype)
        tree[name] = npy(array) if name.endswith(".npy") else array.astype("<f4").tobytes()
    return f"{number} in {name} at {'random places' if isinstance(where, np.ndarray) else where}"


def layout(tree: Tree, rng: random.Random) -> str:
    """Another shape, order or type of an array."""
    name = _file(tree, rng, ".npy")
    array = _array(tree, name)
    if array is None:
        raise LookupError
    changes: dict[str, Callable[[], np.ndarray]] = {
        "transposed": lambda: array.T,
        "flat": array.reshape(-1).copy,
        "with an axis": lambda: array[None],
        "with three colours": lambda: np.stack([array] * 3, axis=-1),
        "half": lambda: array[: len(array) // 2],
        "doubled": lambda: np.concatenate([array, array]),
        "backwards": lambda: array[::-1],
        "empty": lambda: array[:0],
        "one row": lambda: array[:1],
        "a scalar": lambda: np.array(3.0),
        "in Fortran order": lambda: np.asfortranarray(array),
        "shuffled": lambda: np.random.default_rng(rng.randrange(100)).permutation(array),
        "minus one column": lambda: array[..., :-1],
    }
    done = rng.choice((*changes, "of another type"))
    if done != "of another type":
        with np.errstate(all="ignore"):
            try:
                tree[name] = npy(changes[done]())
            except (ValueError, TypeError, IndexError):
                raise LookupError from None
        return f"{name} {done}"
    dtype = rng.choice(("O", "f2", "f4", "f8", ">f8", "i1", "u1", "i8", "?", "c16", "U5", "S5", "M8[s]", "g"))
    buffer = io.BytesIO()
    try:
        with np.errstate(all="ignore"):
            np.save(buffer, array.astype(dtype), allow_pickle=True)
    except (ValueError, TypeError):
        raise LookupError from None
    tree[name] = buffer.getvalue()
    return f"{name} as {dtype}"


def clock(tree: Tree, rng: random.Random) -> str:
    """All times of the session, or of some devices, in another unit or from another origin."""
    factor, offset = rng.choice((1e-3, 1e3, 1e6, 1.0, 60.0, -1.0)), rng.choice((0.0, 0.0, -1520193100.0, 1e12, 1e18))
    chosen = [name for name in ("responses", "eye_tracker", "treadmill", "screen") if rng.random() < 0.9]
    for name in chosen:
        file = f"{name}/timestamps.npy" if name == "screen" else f"{name}/meta.yml"
        if not isinstance(tree.get(file), bytes):
            continue
        if name == "screen":
            times = _array(tree, file)
            if times is not None and times.dtype.kind == "f":
                tree[file] = npy((times + offset) * factor)
            continue
        try:
            meta = yaml.safe_load(_content(tree, file)[:5000])
            meta["sampling_rate"] = meta["sampling_rate"] / factor
            meta |= {key: (meta[key] + offset) * factor for key in ("start_time", "end_time")}
        except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
            continue
        tree[file] = yaml.safe_dump(meta).encode()
    return f"times of {', '.join(chosen)} plus {offset} times {factor}"


def archive_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """An archive with bytes flipped, cut, or with some of its bytes twice."""
    what = rng.choice(("whole",) * 8 + ("flipped", "cut", "extended", "repeated"))
    at = rng.randrange(len(content))
    if what == "flipped":
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.choice((rng.randrange(len(damaged)), -rng.randint(1, min(3000, len(damaged)))))] = (
                rng.randrange(256)
            )
        content = bytes(damaged)
    elif what == "cut":
        content = content[:at]
    elif what == "extended":
        content += rng.randbytes(rng.choice((1, 600)))
    elif what == "repeated":
        content = content[:at] + content[max(0, at - rng.choice((1, 512, 4096))) :]
    return content, f"archive {what}"


MUTATIONS: tuple[Callable[[Tree, random.Random], str], ...] = (
    flip_bytes, truncate, extend, remove, rename, swap_files, duplicate, folders, replace, text, value, value, value,
    header, header, numbers, numbers, layout, layout, clock,
)  # fmt: skip


def mutate(tree: Tree, rng: random.Random) -> list[str]:
    """Damage a tree in one to four ways; returns what was done."""
    done = []
    wanted = rng.choice((1, 1, 1, 2, 2, 4))
    for _ in range(20):
        with contextlib.suppress(LookupError):  # nothing of that kind is left
            done.append(rng.choice(MUTATIONS)(tree, rng))
        if len(done) == wanted:
            break
    return done
