"""Opening a recording in the `datasets` form: devices and a screen over mapped tables.

Shape letters: T stored samples, S signals, F frames, H and W pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from omnimouse.recordings.data.device_clocks import check_rate, clock_is_sound, times_are_plausible
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import RECOPY, is_lfs_pointer, read_fields, shown
from omnimouse.recordings.data.recording_data import SEQUENCE_DEVICES, SessionParts
from omnimouse.recordings.data.screen import Screen, Trial
from omnimouse.recordings.formats.dataset_form.arrow_tables import Layout, MappedTable, stored_dtype

METADATA = "recording.json"
FORMAT = "omnimouse-recording"
VERSION = 1

RECORDING, SCREEN, BETWEEN, TRIALS = "recording.arrow", "screen.arrow", "between.arrow", "trials.arrow"
SIGNALS = ("means", "stds", "phase_shifts", "unit_ids")
"""What a device may have for each of its signals, in `<device>.signals.arrow`."""

EXPORT_AGAIN = "Write the recording again with `recording.to_dataset` or `omnimouse export`."


def looks_like_dataset(path: Path) -> bool:
    """Whether a folder holds one recording in the `datasets` form, whole or not."""
    return (path / METADATA).is_file() or (path / RECORDING).is_file()


def sessions_in(folder: Path) -> list[str]:
    """Sessions that lie in a folder in the `datasets` form, whole or not, sorted."""
    if not folder.is_dir():
        return []
    inner = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(entry.name for entry in inner if looks_like_dataset(entry))


def device_table(name: str) -> str:
    """File whose column `name` holds the samples of a device."""
    return RECORDING if name == "responses" else f"{name}.arrow"


def signals_table(name: str) -> str:
    """File with what a device has for each signal."""
    return f"{name}.signals.arrow"


@dataclass(repr=False)
class TableDevice(SequenceDevice):
    """A sampled device whose rows lie in a column of an Arrow table."""

    # the table; None where there are no signals
    table: MappedTable | None = field(default=None, kw_only=True, compare=False)
    # where rows hold samples, as `segments` says; None for everywhere
    stretches: list[tuple[int, int]] | None = field(default=None, kw_only=True)

    held_as: ClassVar[str] = "batches and no single array"

    def _block(self, low: int, high: int) -> np.ndarray:
        if self.table is None:
            return np.zeros((high - low, 0), dtype=self.dtype)
        return self.table.rows(self.name, low, high).view(self.dtype)

    def segments(self) -> list[tuple[int, int]]:
        """Stretches of consecutive rows that hold samples."""
        return super().segments() if self.stretches is None else self.stretches


@dataclass(repr=False)
class TableScreen(Screen):
    """What was shown, from the rows of a recording's table and, for what no row shows, the screen's own."""

    frame_size: tuple[int, int] | None = field(kw_only=True)  # stored (H, W), None when nothing but blanks was shown
    frame_dtype: str = field(kw_only=True)  # type of the stored pixels
    tables: dict[str, MappedTable] = field(kw_only=True, compare=False)  # the recording's tables by file name
    recorded: bool = field(default=True, kw_only=True)  # whether it is known what was shown
    _places: tuple[np.ndarray, np.ndarray] | None = field(default=None, kw_only=True, compare=False)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_places": None}

    @property
    def has_frames(self) -> bool:
        """Whether it is known what was shown."""
        return self.recorded

    @property
    def picture_form(self) -> tuple[tuple[int, int] | None, str]:
        """Size (H, W) and type of all pictures."""
        return self.frame_size, self.frame_dtype

    def trial_frames(self, trial: Trial, within: np.ndarray, height: int, width: int) -> np.ndarray | float:
        """Frames within a trial, `[T', height, width]`."""
        if trial.modality not in ("video", "image"):
            return super().trial_frames(trial, within, height, width)
        if self.frame_size != (height, width):
            raise ValueError(
                f"{self.folder / RECORDING}: frames are stored as {self.frame_size} pixels, expected "
                f"{(height, width)}; resize the stimuli of the source and {EXPORT_AGAIN[0].lower()}{EXPORT_AGAIN[1:]}"
            )
        if within[-1] >= trial.n_frames:
            raise ValueError(
                f"{self.folder / SCREEN}: trial {trial.index} has {trial.n_frames} frames, but frame {within[-1]} was "
                f"asked for; {EXPORT_AGAIN}"
            )
        return self.pictures(trial.first_frame + within)

    def stimulus_file(self, trial: Trial) -> Path:
        """The table of the recording."""
        return self.folder / RECORDING

    def stimulus(self, trial: Trial) -> np.ndarray:
        """What a trial shows as it is stored: `[F', H, W]` or `[H, W]`."""
        pictures = self.pictures(trial.first_frame + np.arange(trial.n_frames))
        return pictures if trial.modality == "video" else pictures[0]

    def pictures(self, frames: np.ndarray) -> np.ndarray:
        """Increasing displayed frames of videos and images, in their stored type `[F', H, W]`."""
        if self._places is None:
            self._places = self.tables[SCREEN].rows("row"), self.tables[SCREEN].rows("between")
        found = np.empty((len(frames), *(self.frame_size or ())), dtype=self.frame_dtype)
        missing = len(frames)
        for name, places in zip((RECORDING, BETWEEN), self._places, strict=True):
            rows = places[frames]
            at = np.flatnonzero(rows >= 0)
            if len(at):
                if name not in self.tables:
                    raise ValueError(f"{self.folder / METADATA}: lists no table {name}; {EXPORT_AGAIN}")
                first, last = int(rows[at[0]]), int(rows[at[-1]])
                if last >= len(self.tables[name]) or (np.diff(rows[at]) < 0).any():
                    raise ValueError(
                        f"{self.folder / SCREEN}: frames {frames[0]} to {frames[-1]} are said to lie in rows of {name} "
                        f"that are not in order, or beyond its {len(self.tables[name])}; copy the file again"
                    )
                found[at] = self.tables[name].rows("video", first, last + 1)[rows[at] - first]
                missing -= len(at)
        if missing:
            raise ValueError(
                f"{self.folder / SCREEN}: {missing} of frames {frames[0]} to {frames[-1]} are stored nowhere; "
                f"{EXPORT_AGAIN}"
            )
        return found


def read_metadata(path: Path, findings: Findings) -> dict[str, Any] | None:
    """What `recording.json` of a folder says; None and a fatal finding when it is of another kind or version."""
    file = path / METADATA
    if not file.is_file():
        what = "clocks, types and sizes of the tables beside it"
        findings.fatal(file, "file", expected=what, found="no such file", do=RECOPY)
        return None
    content = read_fields(file, findings)
    if content is None:
        return None
    if content.get("format") != FORMAT:
        findings.fatal(file, "format", expected=repr(FORMAT), found=shown(content.get("format")), do=EXPORT_AGAIN)
        return None
    if content.get("version") != VERSION:
        newer = isinstance(content.get("version"), int) and content["version"] > VERSION
        do = "Upgrade omnimouse: `pip install --upgrade omnimouse`." if newer else EXPORT_AGAIN
        findings.fatal(file, "version", expected=str(VERSION), found=shown(content.get("version")), do=do)
        return None
    return content


def load_dataset_form(path: Path, findings: Findings) -> SessionParts:
    """Open the parts of a recording in the `datasets` form; faults go to `findings`, none raises."""
    parts = SessionParts(path, path.name, path.name, dict.fromkeys(SEQUENCE_DEVICES), None)
    content = read_metadata(path, findings)
    if content is None:
        return parts
    try:
        tables = _open_tables(path, content["tables"], findings)
        if tables is None:
            return parts
        devices: dict[str, SequenceDevice | None] = {
            name: _device(path, name, content["devices"][name], tables, findings) for name in SEQUENCE_DEVICES
        }
        screen = _screen(path, content["frames"], tables, findings)
        withheld = tuple(map(str, content["withheld_tiers"]))
        return SessionParts(path, str(content["session_key"]), str(content["animal_id"]), devices, screen, withheld)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        findings.fatal(path / METADATA, "content", expected="a complete description", found=found, do=EXPORT_AGAIN)
        return parts


def _open_tables(path: Path, layouts: dict[str, dict[str, Any]], findings: Findings) -> dict[str, MappedTable] | None:
    """All tables by file name, of the sizes that they were written with; None with a fatal finding."""
    tables: dict[str, MappedTable] = {}
    for name, content in layouts.items():
        file, layout = path / name, Layout(**{**content, "batches": tuple(content["batches"])})
        expected = f"{layout.rows} rows in {layout.bytes} bytes"
        if file.parent != path:
            findings.fatal(path / METADATA, "tables", expected="names of files beside it", found=name, do=EXPORT_AGAIN)
        elif is_lfs_pointer(file):
            found, do = "a Git LFS pointer", "Run `git lfs pull` in its repository."
            findings.fatal(file, "file", expected=expected, found=found, do=do)
        else:
            try:
                tables[name] = MappedTable(file, layout)
            except ValueError as error:
                findings.fatal(file, "file", expected=expected, found=str(error).rpartition(": ")[2], do=RECOPY)
    return None if findings.has_fatal else tables


def _expect(table: MappedTable, findings: Findings, column: str, dtype: Any, *shape: int) -> bool:
    """Whether a table has a column of a type; a fatal finding otherwise."""
    if table.has_column(column, dtype, shape):
        return True
    lists = f" in lists of {' of '.join(map(str, shape))}" if shape else ""
    schema = table.schema
    found = str(schema.field(column).type) if column in schema.names else f"columns {', '.join(schema.names)}"
    expected = f"a column of {np.dtype(dtype)}{lists}"
    findings.fatal(table.path, f"schema, column {column!r}", expected=expected, found=found, do=EXPORT_AGAIN)
    return False


def _device(
    path: Path, name: str, content: dict[str, Any], tables: dict[str, MappedTable], findings: Findings
) -> SequenceDevice | None:
    n_rows, n_signals = (int(size) for size in content["shape"])
    n_rows = n_rows if n_signals else 0
    file, dtype = device_table(name), np.dtype(str(content["dtype"]))
    if dtype.kind not in "fiub":
        raise ValueError(f"{name} of dtype {dtype}, expected numbers")
    table = tables.get(file)
    if n_signals and table is None:
        findings.fatal(path / METADATA, "tables", expected=f"{file} among them", found="it is not", do=EXPORT_AGAIN)
        return None
    if table is not None and n_signals and not _expect(table, findings, name, stored_dtype(dtype, name), n_signals):
        return None
    if table is not None and len(table) != n_rows:
        findings.fatal(path / file, "rows", expected=str(n_rows), found=str(len(table)), do=EXPORT_AGAIN)
        return None
    signals = tables.get(signals_table(name))
    columns = [] if signals is None else [column for column in signals.schema.names if column in SIGNALS]
    per_signal = {column: np.array(signals.rows(column)) for column in columns if signals is not None}
    if any(len(values) != n_signals for values in per_signal.values()):
        findings.fatal(path / signals_table(name), "rows", expected=str(n_signals), found="others", do=EXPORT_AGAIN)
        return None
    rate, start, end = (float(content[key]) for key in ("sampling_rate", "start_time", "end_time"))
    if n_signals:
        if not np.isfinite([rate, start, end]).all():
            raise ValueError(f"{name} sampled at {rate} Hz from {start} to {end} s")
        if not times_are_plausible(path / METADATA, rate, start, end, findings):
            return None
        check_rate(path / METADATA, name, (n_rows, n_signals), rate, end - start, findings)
    stretches = content["segments"]
    device = TableDevice(
        name=name,
        file=path / file,
        sampling_rate=rate,
        start_time=start,
        end_time=end,
        shape=(n_rows, n_signals),
        dtype=str(dtype),
        nominal_rows=content["nominal_rows"],
        is_mem_mapped=content["is_mem_mapped"],
        channels=None if content.get("channels") is None else tuple(map(str, content["channels"])),
        table=table,
        stretches=None if stretches is None else [(int(first), int(last)) for first, last in stretches],
        **per_signal,
    )
    if any(not 0 <= first < last <= n_rows for first, last in device.segments() if n_rows):
        raise ValueError(f"segments of {name} are not stretches of its {n_rows} rows")
    return device


def _screen(
    path: Path, content: dict[str, Any], tables: dict[str, MappedTable], findings: Findings
) -> TableScreen | None:
    screen = tables[SCREEN]
    sound = [_expect(screen, findings, "timestamp", np.float64)]
    sound += [_expect(screen, findings, name, np.int64) for name in ("row", "between")]
    size, dtype = None, str(np.dtype(str(content["dtype"])))
    if np.dtype(dtype).kind not in "fiub":
        raise ValueError(f"frames of dtype {dtype}, expected numbers")
    if content["size"] is not None:
        height, width = size = (int(content["size"][0]), int(content["size"][1]))
        pictures = [tables[name] for name in (RECORDING, BETWEEN) if name in tables]
        sound += [_expect(table, findings, "video", dtype, height, width) for table in pictures]
    if not all(sound):
        return None
    timestamps, trials = np.array(screen.rows("timestamp")), trials_of(tables[TRIALS])
    if not clock_is_sound(path / SCREEN, timestamps, findings):
        return None
    last = max((trial.first_frame + trial.n_frames for trial in trials), default=0)
    if not 0 < last <= len(timestamps) or min(min(trial.first_frame, trial.n_frames - 1) for trial in trials) < 0:
        expected, found = f"frames 0 to {len(timestamps) - 1}", f"frames up to {last - 1}"
        findings.fatal(path / TRIALS, "first_frame", expected=expected, found=found, do=EXPORT_AGAIN)
        return None
    return TableScreen(
        path, timestamps, trials, frame_size=size, frame_dtype=dtype, tables=tables,
        recorded=bool(content.get("recorded", True)),
    )  # fmt: skip


def trials_of(table: MappedTable) -> list[Trial]:
    """All trials of a recording."""
    rows = table.read()
    for row in rows:
        row["image_size"] = None if row["image_size"] is None else tuple(row["image_size"])
        row["condition_hash"] = identity(row["condition_hash"])
    return [Trial(**row) for row in rows]


def trials_schema(trials: list[Trial]) -> dict[str, Any]:
    """Types of the columns of `trials.arrow`; trial ids are numbers or names, as they are in the recording.

    Raises:
        ValueError: some trial ids are numbers and others names.
    """
    ids = [trial.trial_id for trial in trials]
    kinds = {type(value) for value in ids if value is not None}
    if len(kinds) > 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"trial ids of several types ({found}) do not fit into one column; make them all names")
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    return {
        "index": whole, "modality": text, "tier": text, "first_frame": whole, "n_frames": whole, "start": real,
        "end": real, "condition_hash": text, "name": text, "image_size": pa.list_(whole), "interleave_value": real,
        "trial_id": {str: text, float: real}.get(next(iter(kinds), str), whole),
    }  # fmt: skip


def encode_metadata(content: dict[str, Any]) -> str:
    """The text of `recording.json`; numbers that JSON lacks become names, which `float` reads."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)
        if isinstance(value, dict):
            return {name: plain(entry) for name, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    return json.dumps(plain({"format": FORMAT, "version": VERSION, **content}), indent=1, allow_nan=False) + "\n"
