"""What of an NWB file is what, where its names do not say so: a mapping in YAML, typed and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnimouse.support.validation import from_mapping
from omnimouse.support.yaml_fields import read_yaml

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class TierColumn:
    """Which trials belong to which tier.

    Attributes:
        column: column of the trials' table.
        values: tier -> values of the column; trials of other values are not used. None: the column names the tiers.
    """

    column: str
    values: dict[str, tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class NwbMapping:
    """Where in an NWB file things are: paths within the file, `auto` to go by names and types, `none` to leave out.

    A path names a time series, a container with one, or a data set in one; `path[0]` is a column of it, `path[0, :]` a
    row where time is the second axis.

    Attributes:
        responses: the neurons' responses.
        responses_transposed: whether they are stored as [neurons, samples]; None: no, and refused where the file
            itself says that they are.
        rois: "accepted": the regions that the lab has accepted, where their table says which; "all"; or a column of the
            table that is true for those to import.
        behavior: channel -> path. Channels that are not listed are found by themselves.
        video: what was shown: an IndexSeries, or a series of images.
        video_range: values of black and white; None: 0 and 255, unless the frames contradict them.
        video_transposed: whether images are stored with x before y; None: no, and refused where they are taller than
            wide.
        trials: table of time intervals. `auto` takes intervals/trials where that has a column of tiers.
        tiers: which trials belong to which tier; None: a column "tier" or "split".
        condition: column that says which trials show the same; None: "condition_hash", "condition", "stimulus_id", ...
        split: tier -> share of the time, in blocks, where no trials have tiers.
        session_key: name of the session; None: from subject_id and session_id.
        animal_id: name of the animal; None: the subject_id.
    """

    responses: str = AUTO
    responses_transposed: bool | None = None
    rois: str = "accepted"
    behavior: dict[str, str] = field(default_factory=dict)
    video: str = AUTO
    video_range: tuple[float, float] | None = None
    video_transposed: bool | None = None
    trials: str = AUTO
    tiers: TierColumn | None = None
    condition: str | None = None
    split: dict[str, float] | None = None
    session_key: str | None = None
    animal_id: str | None = None


def as_mapping(mapping: NwbMapping | Mapping[str, Any] | str | os.PathLike[str] | None) -> NwbMapping:
    """A mapping from any form of it: a YAML file, its content, or None for the defaults.

    Raises:
        ValueError: the file cannot be read, or has an unknown field or a value of another type.
    """
    if mapping is None or isinstance(mapping, NwbMapping):
        return mapping or NwbMapping()
    if isinstance(mapping, Mapping):
        return from_mapping(NwbMapping, mapping, where="mapping")
    path = Path(mapping).expanduser()
    content = read_yaml(path, "mapping", example="responses: auto")
    return from_mapping(NwbMapping, content, where=str(path))
