"""Rows of stored arrays: what is read is what is stored, whatever the system is asked to fetch in advance."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from omnimouse.recordings.data import devices
from omnimouse.recordings.data.devices import SequenceDevice


@pytest.fixture(params=[".npy", ".mem"])
def device(request, tmp_path):
    """A device of 700 rows of 301 float32 values (no multiple of a page), and its values."""
    values = np.random.default_rng(0).random((700, 301), dtype=np.float32)
    file = tmp_path / f"data{request.param}"
    np.save(file, values) if request.param == ".npy" else values.tofile(file)
    return SequenceDevice("responses", file, 30.0, 0.0, 700 / 30, values.shape, "float32"), values


def test_rows_are_those_stored(device):
    device, values = device
    for low, high in ((0, 1), (0, 60), (333, 393), (640, 700), (699, 700)):
        np.testing.assert_array_equal(device.read(np.arange(low, high)), values[low:high])
    np.testing.assert_array_equal(device.read(np.array([5, 3, 3, 699])), values[[5, 3, 3, 699]])
    with pytest.raises(ValueError, match="rows 640 to 700 asked for"):
        device.read(np.arange(640, 701))


def test_what_is_asked_for_in_advance_is_what_will_be_read(device, monkeypatch):
    """From the page of the first byte to the last byte."""
    device, values = device
    asked = []

    class Recorder:
        def madvise(self, advice, start, length):
            asked.append((advice, start, length))

    class Array(np.ndarray):
        _mmap = Recorder()
        offset = device.data.offset

    devices._fetch_ahead(np.ascontiguousarray(values).view(Array), 333, 393)
    ((advice, start, length),) = asked
    first, last = device.data.offset + 333 * 301 * 4, device.data.offset + 393 * 301 * 4
    assert advice == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
    assert first - mmap.PAGESIZE < start <= first and start + length == last


def test_advice_that_is_refused_is_no_error(device, monkeypatch):
    device, values = device
    monkeypatch.setattr(mmap, "MADV_WILLNEED", 12345)
    np.testing.assert_array_equal(device.read(np.arange(60)), values[:60])
