"""Tiny sound sessions, one per reader, as trees in memory that a mutation can change cheaply.

A new reader needs an entry in `READERS`: how its session is built, and how a tree becomes what is opened.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from omnimouse.recordings import open_recording

HEIGHT, WIDTH = 6, 8
"""Pixels of a frame; cases are opened with a processor of this size."""

START = 1520193100.5945
SENSORIUM_NAME = "dynamic7-1-2-Video-abc"


@dataclass(frozen=True)
class Special:
    """What may lie in a folder besides a file: kind "folder", "link" (to `target`) or "fifo"."""

    kind: str
    target: str = ""


Tree = dict[str, "bytes | Special"]


def npy(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _device(tree: Tree, name: str, array: np.ndarray, rate: float, *, mem: bool) -> None:
    meta = {
        "modality": "sequence",
        "sampling_rate": rate,
        "start_time": START,
        "end_time": START + len(array) / rate + 0.1,
        "n_signals": array.shape[1],
        "n_timestamps": len(array),
        "dtype": str(array.dtype),
        "is_mem_mapped": mem,
        "phase_shift_per_signal": name == "responses",
        "neuron_properties": {"unit_ids": "meta/unit_ids.npy"},
    }
    tree[f"{name}/meta.yml"] = yaml.safe_dump(meta).encode()
    tree[f"{name}/data.mem" if mem else f"{name}/data.npy"] = array.tobytes() if mem else npy(array)
    tree[f"{name}/meta/means.npy"] = npy(array.mean(axis=0, dtype=np.float64)[None])
    tree[f"{name}/meta/stds.npy"] = npy(array.std(axis=0, dtype=np.float64)[None])
    tree[f"{name}/timestamps.npy"] = npy(START + np.arange(len(array)) / rate)


def experanto(*, mem: bool) -> Tree:
    """A session of 6 s and 3 neurons in experanto's layout, responses as `.npy` or `.mem`."""
    rng = np.random.default_rng(1)
    tree: Tree = {"meta.json": json.dumps({"scan_key": {"animal_id": 7, "session": 1, "scan_idx": 2}}).encode()}
    _device(tree, "responses", rng.gamma(2.0, 2.0, (180, 3)).astype(np.float32), 30.0, mem=mem)
    tree["responses/meta/unit_ids.npy"] = npy(np.arange(1, 4))
    tree["responses/meta/phase_shifts.npy"] = npy(np.array([0.0, 0.01, 0.02]))
    tree["responses/meta/cell_motor_coordinates.npy"] = npy(np.zeros((3, 3), dtype=int))
    _device(tree, "eye_tracker", rng.standard_normal((120, 4)), 20.0, mem=False)
    _device(tree, "treadmill", rng.standard_normal((150, 1)), 25.0, mem=mem)
    times: list[float] = []
    now = START
    programme = (
        ("blank", None, 1, 0.6), ("video", "train", 75, 2.5), ("image", "train", 1, 0.2), ("INVALID", None, 1, 0.1),
        ("video", "validation", 66, 2.2), ("blank", None, 1, 0.4), ("blank", None, 1, 0.1),
    )  # fmt: skip
    for number, (modality, tier, n_frames, seconds) in enumerate(programme):
        meta = {"modality": modality, "first_frame_idx": len(times), "num_frames": n_frames, "interleave_value": 128.0}
        meta["image_size"] = [HEIGHT, WIDTH]
        if tier is not None:
            meta |= {"tier": tier, "trial_idx": number, "condition_hash": f"c{number}"}
            shape = (n_frames, HEIGHT, WIDTH) if modality == "video" else (HEIGHT, WIDTH)
            tree[f"screen/data/{number:05d}.npy"] = npy(rng.integers(0, 256, shape).astype(np.uint8))
        tree[f"screen/meta/{number:05d}.yml"] = yaml.safe_dump(meta).encode()
        times += (now + np.arange(n_frames) / 30.0).tolist()
        now += seconds
    tree["screen/meta.yml"] = b"modality: screen\n"
    tree["screen/timestamps.npy"] = npy(np.array(times))
    tree["screen/combined_meta.json"] = b"{}"
    return tree


def sensorium_2023() -> Tree:
    """Four trials of 66 frames and 3 neurons as SENSORIUM 2023 distributes them."""
    rng = np.random.default_rng(2)
    tiers, n_frames, stored = ("train", "oracle", "final_test_main", "train"), 66, 70
    tree: Tree = {"config.json": b'{"links": {}}'}
    for trial, tier in enumerate(tiers):
        arrays = {
            "videos": rng.integers(0, 256, (HEIGHT, WIDTH, n_frames)).astype(np.float32),
            "responses": rng.gamma(2.0, 2.0, (3, n_frames)) * (tier != "final_test_main"),
            "behavior": rng.gamma(2.0, 2.0, (2, n_frames)),
            "pupil_center": rng.standard_normal((2, n_frames)),
        }
        for kind, array in arrays.items():
            padding = np.full((*array.shape[:-1], stored - n_frames), np.nan, dtype=array.dtype)
            tree[f"data/{kind}/{trial}.npy"] = npy(np.concatenate([array, padding], axis=-1))
    for kind, n in (("responses", 3), ("behavior", 2), ("pupil_center", 2)):
        for name in ("mean", "std"):
            tree[f"meta/statistics/{kind}/all/{name}.npy"] = npy(rng.gamma(2.0, 2.0, (n, stored)))
    tree["meta/neurons/unit_ids.npy"] = npy(np.arange(3))
    tree["meta/neurons/cell_motor_coordinates.npy"] = npy(np.zeros((3, 3), dtype=int))
    tree["meta/trials/tiers.npy"] = npy(np.array(tiers))
    tree["meta/trials/trial_idx.npy"] = npy(np.array([f"{trial * 7919:032x}" for trial in range(len(tiers))]))
    return tree


def sensorium_2022() -> Tree:
    """Eight trials of one image and 3 neurons as SENSORIUM 2022 distributes them."""
    rng = np.random.default_rng(3)
    tiers = ("train", "test", "validation", "train", "final_test", "test", "train", "validation")
    tree: Tree = {"config.json": b'{"links": {}}'}
    for trial, tier in enumerate(tiers):
        arrays = {
            "images": rng.integers(0, 256, (1, 4 * HEIGHT, 4 * WIDTH)).astype(np.uint8),
            "responses": rng.gamma(2.0, 2.0, 3) * (tier != "final_test"),
            "behavior": rng.gamma(2.0, 2.0, 3),
            "pupil_center": rng.standard_normal(2),
        }
        for kind, array in arrays.items():
            tree[f"data/{kind}/{trial}.npy"] = npy(array)
    for kind, n in (("responses", 3), ("behavior", 3), ("pupil_center", 2)):
        for name in ("mean", "std"):
            tree[f"meta/statistics/{kind}/all/{name}.npy"] = npy(rng.gamma(2.0, 2.0, n))
    tree["meta/neurons/unit_ids.npy"] = npy(np.arange(3))
    tree["meta/trials/tiers.npy"] = npy(np.array(tiers))
    tree["meta/trials/frame_image_id.npy"] = npy(np.array([5, 6, 7, 8, 9, 6, 10, 11]))
    tree["meta/trials/trial_idx.npy"] = npy(np.arange(len(tiers)))
    return tree


def experanto_named() -> Tree:
    """The session of `experanto` with this package's additions to the layout."""
    tree = experanto(mem=False)
    eye = yaml.safe_load(tree["eye_tracker/meta.yml"])
    names = ["gaze_y", "lick", "pupil_size", "gaze_x"]
    tree["eye_tracker/meta.yml"] = yaml.safe_dump({**eye, "channel_names": names}).encode()
    meta = {**json.loads(tree["meta.json"]), "missing": ["treadmill"], "withheld_tiers": ["oracle"]}
    tree["meta.json"] = json.dumps(meta).encode()
    tree["screen/meta.yml"] = b"frames: true\nmodality: screen\n"
    return {name: content for name, content in tree.items() if not name.startswith("treadmill/")}


def dataset() -> Tree:
    """The session of `experanto` as tables of `datasets`."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_tree(experanto(mem=False), Path(folder) / "source")
        open_recording(source).to_dataset(Path(folder) / "tables")
        session = next(path for path in (Path(folder) / "tables").iterdir() if path.is_dir())
        return {path.name: path.read_bytes() for path in sorted(session.iterdir())}


def write_tree(tree: Tree, folder: Path) -> Path:
    """Lay a tree out below a folder; names that clash with others are left out, as no disk could hold them."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content.kind == "folder":
                path.mkdir()
            elif content.kind == "fifo":
                os.mkfifo(path)
            else:
                path.symlink_to(content.target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    return folder


def write_zip(tree: Tree) -> bytes:
    """A zip file of a tree; what is no file becomes a folder or a link entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in tree.items():
            entry = zipfile.ZipInfo(f"{SENSORIUM_NAME}/{name}" + ("/" * (content == Special("folder"))))
            link = isinstance(content, Special) and content.kind == "link"
            entry.external_attr = ((0o120777 if link else 0o100644) << 16) if content != Special("folder") else 0x10
            archive.writestr(entry, content if isinstance(content, bytes) else content.target.encode())
    return buffer.getvalue()


def write_tar(tree: Tree) -> bytes:
    """A tar file of a tree."""
    buffer = io.BytesIO()
    kinds = {"folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE}
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(f"session/{name}")
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = kinds[content.kind], content.target
                archive.addfile(member)
    return buffer.getvalue()


@dataclass(frozen=True)
class Reader:
    """A kind of recording to damage.

    Attributes:
        build: makes the sound tree.
        pack: bytes of an archive of a tree, or None for a folder.
        suffix: of the archive's name.
    """

    build: Callable[[], Tree]
    pack: Callable[[Tree], bytes] | None = None
    suffix: str = ""

    def tree(self) -> Tree:
        """A sound tree that may be changed."""
        return dict(_built(self.build))


@cache
def _built(build: Callable[[], Tree]) -> Tree:
    return build()


def _experanto_npy() -> Tree:
    return experanto(mem=False)


def _experanto_mem() -> Tree:
    return experanto(mem=True)


READERS: dict[str, Reader] = {
    "experanto-npy": Reader(_experanto_npy),
    "experanto-mem": Reader(_experanto_mem),
    "experanto-tar": Reader(_experanto_mem, write_tar, ".tar"),
    "sensorium-2023": Reader(sensorium_2023),
    "sensorium-2023-zip": Reader(sensorium_2023, write_zip, ".zip"),
    "sensorium-2022": Reader(sensorium_2022),
    "experanto-named": Reader(experanto_named),
    "datasets": Reader(dataset),
}
