"""Pixels that are no grey levels are said, whatever their type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omnimouse.recordings.checks.check_pixels import check_movie
from omnimouse.recordings.data.frames import GreyLevels

BYTES = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)


@pytest.mark.parametrize(
    ("frames", "fields"),
    [
        ([BYTES, BYTES[:1]], []),
        ([BYTES.astype(np.float32) + 0.3], []),  # rounding of a scaled movie
        ([BYTES / 255.0], ["value range"]),
        ([BYTES // 255, BYTES], []),
        ([BYTES.astype(np.uint16) * 16], ["grey levels"]),
        ([BYTES.view(np.int8)], ["grey levels"]),
        ([BYTES, np.full((2, 8, 8), np.nan)], ["pixels"]),
        ([np.where(BYTES == 3, np.inf, BYTES)], ["pixels"]),
    ],
)
def test_each_way_of_being_no_grey_level_is_one_finding(frames, fields):
    levels = GreyLevels()
    for block in frames:
        levels.add(block)
    assert [finding.field for finding in check_movie(levels, Path("movie"))] == fields


def test_a_range_that_somebody_stated_is_meant_and_shares_are_counted():
    levels = GreyLevels()
    levels.add(BYTES / 255.0)
    assert not list(check_movie(levels, Path("movie"), range_is_meant=True))
    levels.add(np.full(BYTES.shape, np.nan))
    findings = list(check_movie(levels, Path("movie"), range_is_meant=True))
    assert findings[0].found == "50.00% NaN or infinite"
