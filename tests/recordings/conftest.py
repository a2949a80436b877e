"""Session folders for the tests of recordings: two stored ones with reference windows, and a writer of small ones."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from omnimouse.recordings import Windows
from omnimouse.recordings.held_windows import HeldWindows, can_be_held

DATA = Path(__file__).parents[1] / "data" / "recordings"
START = 1520193100.5945
"""Epoch second at which the responses of a written session start."""

# modality, tier, stored frames, frame rate, seconds until the next trial
PROGRAMME: tuple[tuple[str, str | None, int, float, float], ...] = (
    ("blank", None, 1, 30.0, 1.5),
    ("video", "train", 120, 30.0, 4.0),
    ("video", "validation", 240, 60.0, 4.0),
    ("blank", None, 1, 30.0, 0.4),
    ("image", "train", 1, 30.0, 0.5),
    ("blank", None, 1, 30.0, 0.3),
    ("INVALID", None, 1, 30.0, 1.0),
    ("video", "train", 120, 30.0, 4.0),
    ("video", "final_test", 120, 30.0, 4.0),
    ("video", "oracle", 120, 30.0, 4.0),
    ("blank", None, 1, 30.0, 1.0),
)


def _write_device(folder: Path, rate: float, array: np.ndarray, start: float, *, mem: bool, **extra: Any) -> None:
    (folder / "meta").mkdir(parents=True)
    meta = {
        "modality": "sequence",
        "sampling_rate": rate,
        "start_time": start,
        "end_time": start + len(array) / rate + 0.12,
        "n_signals": array.shape[1],
        "n_timestamps": len(array),
        "dtype": str(array.dtype),
        "is_mem_mapped": mem,
        "phase_shift_per_signal": False,
    }
    (folder / "meta.yml").write_text(yaml.safe_dump({**meta, **extra}))
    if mem:
        array.tofile(folder / "data.mem")
    else:
        np.save(folder / "data.npy", array)
    np.save(folder / "meta/means.npy", np.nanmean(array, axis=0, dtype=np.float64)[None])
    np.save(folder / "meta/stds.npy", np.nanstd(array, axis=0, dtype=np.float64)[None])


def _write_screen(folder: Path) -> None:
    (folder / "meta").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "meta.yml").write_text("modality: screen\n")
    times: list[float] = []
    now = START - 0.687
    for number, (modality, tier, n_frames, rate, seconds) in enumerate(PROGRAMME):
        meta: dict[str, Any] = {
            "modality": modality,
            "first_frame_idx": len(times),
            "num_frames": n_frames,
            "image_size": [36, 64],
        }
        if modality == "blank":
            meta["interleave_value"] = 128.0
        if tier is not None:
            meta |= {"tier": tier, "trial_idx": number, "condition_hash": f"c{number}"}
            # A frame's grey level is its number, so that a test can tell which one a window shows.
            frames = np.broadcast_to(np.arange(n_frames, dtype=np.uint8)[:, None, None], (n_frames, 36, 64))
            np.save(
                folder / f"data/{number:05d}.npy", frames if modality == "video" else np.full((36, 64), 200, np.uint8)
            )
        (folder / f"meta/{number:05d}.yml").write_text(yaml.safe_dump(meta))
        times += (now + np.arange(n_frames) / rate).tolist()
        now += seconds
    np.save(folder / "timestamps.npy", np.array([*times]))


def _write_session(folder: Path, *, n_neurons: int = 5, mem: bool = False) -> Path:
    """Write a sound session of 24 s."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    (folder / "meta.json").write_text(json.dumps({"scan_key": {"animal_id": 7, "session": 1, "scan_idx": 2}}))
    (folder / "config.json").write_text("{}")
    responses = rng.gamma(2.0, 2.0, (720, n_neurons)).astype(np.float32)
    _write_device(folder / "responses", 30.0, responses, START, mem=mem)
    np.save(folder / "responses/meta/unit_ids.npy", np.arange(1, n_neurons + 1))
    n = 530
    size = np.cumsum(rng.standard_normal(n)) * 0.3 + 50
    eye = np.stack([size, np.gradient(size) * 19.97, rng.normal(140, 3, n), rng.normal(90, 3, n)], axis=1)
    _write_device(folder / "eye_tracker", 19.97, eye, START - 1.3, mem=False)
    _write_device(folder / "treadmill", 75.31, rng.gamma(1, 1, (1960, 1)), START - 0.9, mem=False)
    _write_screen(folder / "screen")
    return folder


@pytest.fixture
def write_session(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a sound session of 24 s and 5 neurons and returns its folder."""

    def write(name: str = "dynamic7-1-2-Video-abc_30hz", *, n_neurons: int = 5, mem: bool = False) -> Path:
        return _write_session(tmp_path / name, n_neurons=n_neurons, mem=mem)

    return write


@pytest.fixture(scope="module")
def _shared_session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = _write_session(tmp_path_factory.mktemp("shared") / "dynamic7-1-2-Video-abc_30hz")
    return folder, {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def session_to_damage(_shared_session: tuple[Path, dict[str, bytes]]) -> Iterator[Path]:
    """A sound session that a test may damage: it is mended afterwards, which is cheaper than writing a new one."""
    folder, contents = _shared_session
    yield folder
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in contents:
            path.unlink()
    for name, content in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture(scope="session")
def stored_session(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that unpacks a stored session, by key, once for all tests and returns its folder."""
    folders: dict[str, Path] = {}

    def unpack(key: str) -> Path:
        if key not in folders:
            target = tmp_path_factory.mktemp("sessions")
            with zipfile.ZipFile(DATA / f"session_{key}.zip") as archive:
                archive.extractall(target)
            folders[key] = next(target.iterdir())
        return folders[key]

    return unpack


@pytest.fixture
def held_alike() -> Callable[[Windows], HeldWindows]:
    """A function that holds windows in memory, and finds each of them to be what is cut from files, bit for bit."""

    def hold(windows: Windows) -> HeldWindows:
        assert len(windows) and can_be_held(windows)
        held, places = HeldWindows(windows, torch.device("cpu")), range(len(windows))
        assert held.windows.recording is not windows.recording and len(held) == len(windows)
        for cut, kept in ((windows.batch(part), held.batch(part)) for part in (places[::2], places[1::3], places[-1:])):
            assert list(cut) == list(kept)
            for name, array in cut.items():
                assert kept[name].is_contiguous() and kept[name].dtype == array.dtype
                assert array.numpy().tobytes() == kept[name].numpy().tobytes(), name
        assert list(held.batch([0], ["responses"])) == ["responses"]
        return held

    return hold


@pytest.fixture
def edit_yaml() -> Callable[..., None]:
    """A function that changes keys of a YAML file; a value of None removes the key."""

    def edit(path: Path, **changes: Any) -> None:
        content = yaml.safe_load(path.read_text())
        content.update(changes)
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))

    return edit


@pytest.fixture
def tree_hash() -> Callable[[Path], dict[str, str]]:
    """A function that gives the content hash of every file, and the name of every folder, below a folder."""

    def digest(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in sorted(folder.rglob("*"))
        }

    return digest
