"""HDF5 arrays read once, by whole chunks: bit for bit, whatever the chunks, and nothing twice."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from nwb_files import RESPONSES, add_series, plain_file, replace

from omnimouse import import_nwb
from omnimouse.recordings.data.frames import area_resize
from omnimouse.recordings.nwb import unpacked as nwb_unpacked
from omnimouse.recordings.nwb.unpacked import unpack, unpack_frames

RNG = np.random.default_rng(3)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 4 kB, so that small arrays take many."""
    monkeypatch.setattr(nwb_unpacked, "TILE_BYTES", 4096)


def dataset(path, data, chunks):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, chunks=chunks, compression="gzip")
    return h5py.File(path)["data"]


def reads(monkeypatch) -> list[tuple[slice, ...]]:
    """What is read of every data set from now on, as slices of all axes."""
    seen: list[tuple[slice, ...]] = []
    original = h5py.Dataset.__getitem__

    def counted(self, key, *args, **options):
        if self.name.endswith("/data") and isinstance(key, (tuple, slice)) and key != ():
            key = key if isinstance(key, tuple) else (key,)
            seen.append((*key, *[slice(0, n) for n in self.shape[len(key) :]]))
        return original(self, key, *args, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    return seen


def decompressed(parts, shape, chunks) -> np.ndarray:
    """How often each chunk was touched."""
    counts = np.zeros([-(-n // c) for n, c in zip(shape, chunks, strict=True)], dtype=int)
    for part in parts:
        spans = [
            slice(s.indices(n)[0] // c, -(-s.indices(n)[1] // c)) for s, n, c in zip(part, shape, chunks, strict=True)
        ]
        counts[tuple(spans)] += 1
    return counts


@pytest.mark.parametrize("chunks", [(500, 3), (500, 1), (7, 40), (50, 8), (1, 40), (500, 40), (33, 13)])
@pytest.mark.parametrize("kept", [None, [0, 5, 6, 38], [39]])
def test_every_chunk_is_read_once_and_values_stay(small_tiles, tmp_path, monkeypatch, chunks, kept):
    data = RNG.normal(size=(500, 40)).astype(np.float32)
    data[3, 5] = np.nan
    stored = dataset(tmp_path / "a.h5", data, chunks)
    seen = reads(monkeypatch)
    columns = None if kept is None else np.array(kept)
    unpacked = unpack(stored, tmp_path / "scratch", columns=columns)
    expected = data if kept is None else data[:, kept]
    assert unpacked.shape == expected.shape and unpacked.dtype == data.dtype
    for part in (slice(None), slice(0, 1), slice(17, 203), slice(499, 500), slice(20, 20)):
        assert np.array_equal(unpacked[part], expected[part], equal_nan=True)
    counts = decompressed(seen, data.shape, chunks)
    assert counts.max() == 1 and (kept is not None or counts.min() == 1)
    largest = max(np.prod([len(range(*s.indices(n))) for s, n in zip(part, data.shape, strict=True)]) for part in seen)
    assert largest * 4 <= max(4096, np.prod(chunks) * 4)


def test_time_may_be_the_second_axis(small_tiles, tmp_path):
    data = RNG.integers(0, 99, (40, 500)).astype(np.int16)
    unpacked = unpack(dataset(tmp_path / "a.h5", data, (40, 20)), tmp_path / "scratch", turned=True)
    assert np.array_equal(unpacked[10:300], data.T[10:300]) and unpacked.dtype == np.int16
    chosen = unpack(
        dataset(tmp_path / "b.h5", data, (3, 500)), tmp_path / "two", turned=True, columns=np.array([2, 30])
    )
    assert np.array_equal(chosen[:], data.T[:, [2, 30]])


def test_frames_are_unpacked_by_tiles_where_their_chunks_are_long_in_time(small_tiles, tmp_path):
    frames = RNG.integers(0, 256, (200, 18, 32), dtype=np.uint8)
    unpacked = unpack(dataset(tmp_path / "a.h5", frames, (200, 5, 7)), tmp_path / "scratch")
    assert len(unpacked.blocks) > 4 and np.array_equal(unpacked[13:150], frames[13:150])


@pytest.mark.parametrize("size", [(18, 32), (9, 16)])
def test_frames_that_are_shown_are_kept_at_the_size_of_windows(small_tiles, tmp_path, size):
    frames = RNG.integers(0, 256, (50, 18, 32), dtype=np.uint8)
    shown = np.array([0, 3, 4, 20, 49])
    kept = unpack_frames(frames, 4, shown, tmp_path / "scratch", size)
    expected = frames[shown] if size == (18, 32) else area_resize(frames[shown], *size)
    assert kept.dtype == expected.dtype and np.array_equal(kept[:], expected)
    assert np.array_equal(unpack_frames(frames, 1, None, tmp_path / "all", (18, 32))[:], frames)


@pytest.mark.parametrize("chunks", [(200, 2), (10, 8)])
def test_an_import_reads_responses_and_frames_once(tmp_path, monkeypatch, chunks):
    """Whatever the chunks: a few neurons by all of time, frames one by one, or pixels by all of time."""
    monkeypatch.setattr(nwb_unpacked, "TILE_BYTES", 65536)
    frames = RNG.integers(0, 256, (40, 72, 128), dtype=np.uint8)
    index = RNG.integers(0, 40, 300)
    with plain_file(tmp_path / "session.nwb") as file:
        values = file[RESPONSES]["data"][()]
        replace(file[RESPONSES], "data", values, chunks=chunks, compression="gzip")
        series = add_series(file, "stimulus/presentation/movie", index, 10.0)
        file.create_dataset("stimulus/templates/frames/data", data=frames, chunks=(40, 36, 32), compression="gzip")
        series["indexed_timeseries"] = h5py.SoftLink("/stimulus/templates/frames")
    seen = reads(monkeypatch)
    imported = import_nwb(tmp_path / "session.nwb", tmp_path / "imported")
    assert np.array_equal(imported.responses.data, values)
    assert decompressed([part for part in seen if len(part) == 2], values.shape, chunks).max() == 1
    assert decompressed([part for part in seen if len(part) == 3], frames.shape, (40, 36, 32)).max() == 1
    shown = imported.screen.frames_at(np.arange(300) / 10 + 0.05, height=36, width=64)
    assert np.array_equal(shown, area_resize(frames[index], 36, 64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported", "session.nwb"]
