"""Writing a recording of any format in the `datasets` form, chunk by chunk, whole or not at all.

Shape letters: T response samples, F displayed frames, R rows of one chunk, S signals, H and W pixels.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from omnimouse.recordings.data.clock import FRAME_TOLERANCE, frame_indices, sequence_rows
from omnimouse.recordings.data.devices import CHUNK_BYTES, SequenceDevice
from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.recordings.data.screen import Screen
from omnimouse.recordings.formats.dataset_form import dataset_tables as form
from omnimouse.recordings.formats.dataset_form.arrow_tables import Layout, as_column, stored_dtype, write_table
from omnimouse.recordings.formats.dataset_form.dataset_card import write_card
from omnimouse.support.files import staged_folders
from omnimouse.support.outputs import check_output

SESSION_NAME = re.compile(r"\w[\w.-]*")
"""Session keys that can name a folder and a configuration everywhere."""

SPLIT = "recording"
"""The one split of every configuration: tiers are a column."""

Columns = dict[str, pa.Array]
"""Some rows of a table."""


def to_dataset(recording: RecordingData, folder: str | os.PathLike[str]) -> datasets.Dataset:
    """Write a recording into a folder in the `datasets` form, in bounded memory; see `Recording.to_dataset`."""
    key = recording.session_key
    if not SESSION_NAME.fullmatch(key):
        raise ValueError(
            f"{recording.path}: the session key {key!r} cannot name a folder and a configuration; it may have letters, "
            "digits, '_', '-' and '.', and must not begin with '.' or '-'"
        )
    target = check_output(folder, recording.path, folder=True) / key
    if target.exists():
        raise ValueError(f"{target}: exists already; remove it, or choose another folder")
    pictures = Pictures.of(recording.screen)
    trials_schema = form.trials_schema(recording.trials)
    with staged_folders(target) as (work, _):
        Writer(recording, work, pictures).write(trials_schema)
    write_card(target.parent)  # which tells `datasets` by the fingerprint that what it may have cached has changed
    return datasets.Dataset.from_file(os.fspath(target / form.RECORDING), split=SPLIT)


@dataclass(frozen=True)
class Pictures:
    """Size and type of what videos and images show, the same for all of a recording."""

    screen: Screen
    size: tuple[int, int] | None  # (H, W), None when only blanks are shown
    dtype: np.dtype  # the stimuli's own; float32, as windows have it, where they differ

    @classmethod
    def of(cls, screen: Screen) -> Pictures:
        """Look at the headers of all stimuli.

        Raises:
            ValueError: stimuli of several sizes, in colour, shorter than they were shown, or of a type Arrow lacks.
        """
        if screen.picture_form is not None:
            known, kind = screen.picture_form
            return cls(screen, known, np.dtype(kind))
        sizes: dict[tuple[int, ...], Path] = {}
        dtypes = set()
        for trial in screen.trials:
            if trial.modality not in ("video", "image"):
                continue
            stimulus, file = screen.stimulus(trial), screen.stimulus_file(trial)
            if stimulus.ndim != (3 if trial.modality == "video" else 2):
                raise ValueError(f"{file}: shape {stimulus.shape}, expected grey frames of one {trial.modality}")
            if trial.modality == "video" and len(stimulus) < trial.n_frames:
                raise ValueError(
                    f"{file}: {len(stimulus)} frames, but {trial.n_frames} were shown; the file is truncated or "
                    "num_frames is wrong"
                )
            sizes.setdefault(stimulus.shape[-2:], file)
            dtypes.add(stored_dtype(stimulus.dtype, str(file)))
        if len(sizes) > 1:
            found = ", ".join(f"{size} in {file}" for size, file in sizes.items())
            raise ValueError(f"stimuli of several sizes cannot share a column: {found}; resize them to one")
        size = next(iter(sizes), None)
        dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        return cls(screen, None if size is None else (size[0], size[1]), dtype)

    def read(self, frames: np.ndarray, trial_of: np.ndarray) -> np.ndarray:
        """Non-decreasing displayed frames `[R]`, of the trials `[R]` or of none (-1), as `[R, H, W]`.

        Where nothing is stored, that is NaN or, of integers, 0.
        """
        size = self.size or (0, 0)
        nothing = np.nan if self.dtype.kind == "f" else 0
        found = np.full((len(frames), *size), nothing, dtype=self.dtype)
        for index in np.unique(trial_of[trial_of >= 0]):
            trial = self.screen.trials[index]
            if trial.modality == "invalid":
                continue
            at = np.flatnonzero(trial_of == index)
            shown = self.screen.trial_frames(trial, frames[at] - trial.first_frame, *size)
            if isinstance(shown, float) and self.dtype.kind != "f":
                limits = np.iinfo(self.dtype)
                shown = int(np.clip(round(shown), limits.min, limits.max))
            found[at] = shown
        return found


class Writer:
    """Writes the tables of one recording into an empty folder; `pictures` are what its screen shows."""

    def __init__(self, recording: RecordingData, folder: Path, pictures: Pictures) -> None:
        self.recording, self.folder, self.pictures = recording, folder, pictures
        self.tables: dict[str, Layout] = {}
        self.digest = hashlib.sha256()
        screen, responses = recording.screen, recording.responses
        first, counts, starts, ends = (
            np.array([getattr(trial, name) for trial in recording.trials])
            for name in ("first_frame", "n_frames", "start", "end")
        )
        frames = np.arange(len(screen.timestamps))
        owner = np.searchsorted(first, frames, side="right") - 1
        self.trial_of_frame = np.where((owner >= 0) & (frames - first[owner] < counts[owner]), owner, -1)
        times = responses.start_time + np.arange(responses.shape[0]) / responses.sampling_rate
        self.frame_of_row = frame_indices(times, screen.timestamps)
        owner = np.searchsorted(starts, times + FRAME_TOLERANCE, side="right") - 1
        self.trial_of_row = np.where((owner >= 0) & (times < ends[owner]), owner, -1)

    def write(self, trials_schema: dict[str, Any]) -> None:
        """Write all tables and what describes them."""
        recording = self.recording
        for device in recording.devices:
            stored_dtype(device.dtype, f"{device.file}")
        self._write_rows()
        for device in recording.devices:
            if device.name != "responses" and device.shape[1]:
                self._write_device(device)
            self._write_signals(device)
        self._write_screen()
        rows = [vars(trial) for trial in recording.trials]
        columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in trials_schema.items()}
        self._table(form.TRIALS, columns)
        content = {
            "session_key": recording.session_key,
            "animal_id": recording.animal_id,
            "withheld_tiers": list(recording.withheld_tiers),
            "devices": {device.name: _device_facts(device) for device in recording.devices},
            "frames": {"size": self.pictures.size, "dtype": str(self.pictures.dtype), "recorded": recording.has_video},
            "tables": {name: asdict(layout) for name, layout in self.tables.items()},
            "fingerprint": self.digest.hexdigest()[:32],
        }
        (self.folder / form.METADATA).write_text(form.encode_metadata(content), encoding="utf-8")

    def _stream(self, name: str, n_rows: int, row_bytes: int, columns: Callable[[int, int], Columns]) -> None:
        """Write a table in chunks of bounded size; `columns` gives those of a range of rows."""
        step = max(1, CHUNK_BYTES // max(1, row_bytes))
        first = columns(0, min(step, n_rows))
        kinds = pa.schema([(column, values.type) for column, values in first.items()])
        schema = datasets.Features.from_arrow_schema(kinds).arrow_schema

        def batches() -> Iterator[list[pa.Array]]:
            yield list(first.values())
            for low in range(step, n_rows, step):
                yield list(columns(low, min(low + step, n_rows)).values())

        self.tables[name] = write_table(self.folder / name, schema, batches(), self.digest)

    def _table(self, name: str, columns: Columns) -> None:
        self._stream(name, 1, 1, lambda low, high: columns)

    def _write_rows(self) -> None:
        recording, pictures = self.recording, self.pictures
        device, trials = recording.responses, recording.trials
        beside = [other for other in recording.devices[1:] if other.shape[1]]
        text = {name: np.array([*(getattr(trial, name) for trial in trials), None], dtype=object)
                for name in ("tier", "modality", "condition_hash")}  # fmt: skip

        def columns(low: int, high: int) -> Columns:
            trial, frame = self.trial_of_row[low:high], self.frame_of_row[low:high]
            found: Columns = {
                "t": pa.array(np.arange(low, high) / device.sampling_rate),
                "trial": pa.array(trial, pa.int32(), mask=trial < 0),
                **{name: pa.array(values[trial].tolist(), pa.string()) for name, values in text.items()},
                "frame": pa.array(frame, pa.int64(), mask=frame < 0),
                device.name: as_column(np.asarray(device._block(low, high))),
            }
            for other in beside:
                found[other.name] = as_column(_latest(other, device, low, high))
            if pictures.size is not None:
                owner = np.where(frame >= 0, self.trial_of_frame[frame], -1)
                found["video"] = as_column(pictures.read(frame, owner))
            return found

        row_bytes = device.shape[1] * np.dtype(device.dtype).itemsize + self._picture_bytes() + 64
        self._stream(form.RECORDING, device.shape[0], row_bytes, columns)

    def _write_device(self, device: SequenceDevice) -> None:
        offset = device.start_time - self.recording.responses.start_time

        def columns(low: int, high: int) -> Columns:
            t = pa.array(offset + np.arange(low, high) / device.sampling_rate)
            return {"t": t, device.name: as_column(np.asarray(device._block(low, high)))}

        row_bytes = device.shape[1] * np.dtype(device.dtype).itemsize + 8
        self._stream(form.device_table(device.name), device.shape[0], row_bytes, columns)

    def _write_signals(self, device: SequenceDevice) -> None:
        values = {name: getattr(device, name) for name in form.SIGNALS}
        present = {name: as_column(array) for name, array in values.items() if array is not None}
        if present and device.shape[1]:
            self._table(form.signals_table(device.name), present)

    def _write_screen(self) -> None:
        """One row per displayed frame: where its picture is; and the pictures that no row shows."""
        screen = self.recording.screen
        frames = np.arange(len(screen.timestamps))
        row = np.searchsorted(self.frame_of_row, frames)
        row[np.append(self.frame_of_row, -1)[row] != frames] = -1
        pictured = ("video", "image") if self.pictures.size is not None else ()
        stored = np.array([*(trial.modality in pictured for trial in self.recording.trials), False])
        kept = np.flatnonzero((row < 0) & stored[self.trial_of_frame])
        between = np.full(len(frames), -1)
        between[kept] = np.arange(len(kept))

        def columns(low: int, high: int) -> Columns:
            trial = self.trial_of_frame[low:high]
            return {
                "t": pa.array(screen.timestamps[low:high] - self.recording.responses.start_time),
                "timestamp": pa.array(screen.timestamps[low:high]),
                "trial": pa.array(trial, pa.int32(), mask=trial < 0),
                "row": pa.array(row[low:high], pa.int64()),
                "between": pa.array(between[low:high], pa.int64()),
            }

        def pictures(low: int, high: int) -> Columns:
            shown = kept[low:high]
            found = self.pictures.read(shown, self.trial_of_frame[shown])
            return {"frame": pa.array(shown, pa.int64()), "video": as_column(found)}

        self._stream(form.SCREEN, len(frames), 40, columns)
        if len(kept):
            self._stream(form.BETWEEN, len(kept), self._picture_bytes() + 8, pictures)

    def _picture_bytes(self) -> int:
        return int(np.prod(self.pictures.size or (0,))) * self.pictures.dtype.itemsize


def _latest(device: SequenceDevice, responses: SequenceDevice, low: int, high: int) -> np.ndarray:
    """The last sample of a device by the time of each response row, `[R, S]`; NaN where it has none."""
    rows = sequence_rows(
        responses.start_time + low / responses.sampling_rate,
        responses.sampling_rate,
        high - low,
        device_start=device.start_time,
        device_rate=device.sampling_rate,
        time_rule="exact",
    )
    kind = np.result_type(stored_dtype(device.dtype, device.name), np.float16)
    found = np.full((high - low, device.shape[1]), np.nan, dtype=kind)
    inside = (rows >= 0) & (rows < device.shape[0])
    if inside.any():
        found[inside] = device.read(rows[inside])
    return found


def _device_facts(device: SequenceDevice) -> dict[str, Any]:
    """What `recording.json` says of a device."""
    stretches = device.segments()
    return {
        "sampling_rate": float(device.sampling_rate),
        "start_time": float(device.start_time),
        "end_time": float(device.end_time),
        "shape": list(device.shape),
        "dtype": np.dtype(device.dtype).newbyteorder("=").name,
        "nominal_rows": device.nominal_rows,
        "is_mem_mapped": device.is_mem_mapped,
        "channels": None if device.channels is None else list(device.channels),
        "segments": None if stretches == [(0, device.shape[0])] else stretches,
    }
