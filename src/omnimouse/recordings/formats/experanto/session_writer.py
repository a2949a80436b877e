"""Writing a recording of any kind as an experanto session folder that gives the same windows.

Responses and frames go through in pieces, so sessions may be larger than memory. Shape letters: T samples, S signals, F
displayed frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.data.clock import FRAME_TOLERANCE
from omnimouse.recordings.data.devices import CHUNK_BYTES, SequenceDevice
from omnimouse.recordings.data.findings import Finding
from omnimouse.recordings.data.recording_data import UNUSED_TIER, RecordingData
from omnimouse.recordings.data.screen import Screen, Trial
from omnimouse.support.files import staged_folders, write_json
from omnimouse.support.progress import progress_bar

FRAMES_AT_ONCE = 32
"""Displayed frames that are read together; they may be large where they are stored."""

MOST_TRIALS = 100_000
"""Trial files have five digits."""

GREY = 128
"""Grey level where nothing is known of the screen and nothing depends on it."""


def write_session_folder(
    recording: RecordingData,
    target: Path,
    *,
    frame_size: tuple[int, int] | None,
    progress: bool,
    notes: Sequence[Finding],
) -> None:
    """Write a recording as a session folder, whole or not at all; for the arguments see `save_recording`.

    Raises:
        ValueError: something lies there already, or the recording has what the format cannot hold.
    """
    if target.is_relative_to(recording.path):
        raise ValueError(f"{target} lies inside the recording itself; choose a folder outside {recording.path}.")
    n_values = sum(device.shape[0] for device in recording.devices)
    with (
        staged_folders(target) as (work, _),
        progress_bar(total=n_values + len(recording.trials), desc=f"saving {target.name}", shown=progress) as bar,
    ):
        _write_identity(work / "meta.json", recording, notes)
        for device in recording.devices:
            if device.shape[1]:
                _write_device(work / device.name, device, *recording.statistics(device), bar)
        _write_screen(work / "screen", recording.screen, frame_size or _frame_size(recording), bar)


def _write_identity(file: Path, recording: RecordingData, notes: Sequence[Finding]) -> None:
    optional = {
        "missing": [device.name for device in recording.devices if not device.shape[1]],
        "withheld_tiers": list(recording.withheld_tiers),
        "notes": [asdict(note) for note in notes],
    }
    identity = {"data_key": recording.session_key, "scan_key": {"animal_id": recording.animal_id}}
    write_json(file, identity | {key: values for key, values in optional.items() if values})


def _frame_size(recording: RecordingData) -> tuple[int, int]:
    """The model's frame size, or the stored one where the screen does not resize."""
    processor = OmniMouseProcessor()
    height, width = processor.frame_height, processor.frame_width
    sizes = {trial.image_size for trial in recording.trials if trial.image_size is not None}
    if not recording.has_video or len(sizes) != 1 or sizes == {(height, width)}:
        return height, width
    shown = next((trial for trial in recording.trials if trial.modality in ("video", "image")), recording.trials[0])
    try:
        first = recording.screen.timestamps[shown.first_frame : shown.first_frame + 1]
        recording.screen.frames_at(first, height=height, width=width)
    except ValueError:
        return sizes.pop()
    return height, width


def _write_device(folder: Path, device: SequenceDevice, means: np.ndarray, stds: np.ndarray, bar: tqdm) -> None:
    """Writes a sampled device, its rows in pieces of at most `CHUNK_BYTES`."""
    dtype, unit_ids = np.dtype(device.dtype), None if device.unit_ids is None else np.asarray(device.unit_ids)
    if unit_ids is not None and unit_ids.dtype.kind not in "iuf":
        raise ValueError(
            f"{device.name}: the unit ids are {unit_ids.dtype}, but session folders hold numbers; number the neurons, "
            "or leave unit_ids out."
        )
    stored = SequenceDevice(
        device.name, folder / "data.npy", device.sampling_rate, device.start_time, device.end_time, device.shape,
        str(dtype), np.asarray(means)[None], np.asarray(stds)[None], device.phase_shifts, unit_ids,
        channels=None if device.name == "responses" else device.channels,
    )  # fmt: skip
    write_sequence_meta(stored)
    n_rows, n_signals = device.shape
    step = max(1, CHUNK_BYTES // (n_signals * dtype.itemsize))
    with _array_file(folder / "data.npy", dtype, device.shape) as file:
        for low in range(0, n_rows, step):
            rows = np.arange(low, min(low + step, n_rows))
            block = _filled(device, device.read(rows), low, means)
            np.ascontiguousarray(block, dtype=dtype).tofile(file)
            bar.update(len(rows))


def _filled(device: SequenceDevice, block: np.ndarray, low: int, means: np.ndarray) -> np.ndarray:
    """Rows from `low` on, with the mean in rows of behaviour that are empty and count for no lost sample.

    Between clips that stand alone there are no samples. No window reads there, but NaN would keep windows away.
    """
    if device.name == "responses":
        return block
    empty = np.isnan(block).any(axis=1)
    lost = device.nan_rows()
    empty[lost[(lost >= low) & (lost < low + len(block))] - low] = False
    return np.where(empty[:, None], np.nan_to_num(means), block) if empty.any() else block


def _array_file(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> BufferedWriter:
    """A new `.npy` file, open behind its header: the values follow by `tofile`, row by row."""
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def write_sequence_meta(device: SequenceDevice, **properties: np.ndarray) -> None:
    """Write everything of a sequence device but its data, into the folder of `device.file`.

    Args:
        device: As it is to be stored; means and stds [1, S] or [S], `channels` None where they are the usual ones.
        **properties: More arrays with one row per neuron, stored as ``meta/<name>.npy``.
    """
    folder, shifted = device.file.parent, device.phase_shifts is not None
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    meta: dict[str, Any] = {
        "dtype": device.dtype,
        "end_time": float(device.end_time),
        "is_mem_mapped": False,
        "modality": "sequence",
        "n_signals": int(device.shape[1]),
        "n_timestamps": int(device.shape[0]),
        "phase_shift_per_signal": shifted,
        "sampling_rate": float(device.sampling_rate),
        "start_time": float(device.start_time),
    }
    if device.channels is not None:
        meta["channel_names"] = list(device.channels)
    if device.unit_ids is not None:
        properties["unit_ids"] = device.unit_ids
    if properties:
        meta["neuron_properties"] = {name: f"meta/{name}.npy" for name in properties}
    arrays = {"means": device.means, "stds": device.stds, **properties, "phase_shifts": device.phase_shifts}
    for name, values in arrays.items():
        if values is not None:
            np.save(folder / "meta" / f"{name}.npy", values)
    write_yaml(folder / "meta.yml", meta)


def write_screen_meta(device: Path, timestamps: np.ndarray, *, frames: bool = True) -> None:
    """Write all of a screen but its trials, into its folder with a folder `meta`; `timestamps` are [F], s."""
    processor = OmniMouseProcessor()
    write_yaml(device / "meta.yml", {"modality": "screen"} if frames else {"frames": False, "modality": "screen"})
    np.save(device / "timestamps.npy", timestamps)
    np.save(device / "meta" / "means.npy", np.array([processor.video_mean]))
    np.save(device / "meta" / "stds.npy", np.array([processor.video_std]))


def write_yaml(file: Path, content: dict[str, Any]) -> None:
    """Write a mapping as YAML."""
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


@dataclass(frozen=True)
class Stretch:
    """Time that becomes one trial of a folder, whose trials begin with a frame and end where the next one begins."""

    trial: Trial | None  # whose time it is, None for time in no trial
    times: np.ndarray  # seconds of its frames
    shown: np.ndarray  # which displayed frame of the recording each of them is, -1 where it makes no difference


def stretches(screen: Screen) -> Iterator[Stretch]:
    """Divides the time of a screen into trials and what lies between them.

    A trial that begins while a frame is on screen gets this frame again at its start, which changes no lookup. Of time
    in no trial only its beginning is kept: what was shown then may be looked up by a trial's last grid point, which
    forgives `FRAME_TOLERANCE`.
    """
    displayed = screen.timestamps
    first, last = float(displayed[0]), float(displayed[-1])
    pieces: list[tuple[Trial | None, float, float]] = []
    now = first
    for trial in sorted(screen.trials, key=lambda trial: trial.start):
        start, end = max(trial.start, first), trial.end
        if end <= first or start > last:
            continue
        if start > now:
            pieces.append((None, now, start))
        pieces.append((trial, start, end))
        now = max(now, end)
    if now < last or not pieces:
        pieces.append((None, now, np.inf))
    for number, (owner, start, end) in enumerate(pieces):
        final = number == len(pieces) - 1
        low = int(np.searchsorted(displayed, start, side="right"))
        high = len(displayed) if final else max(low, int(np.searchsorted(displayed, end, side="left")))
        within = np.arange(low, high)
        if owner is not None:
            yield Stretch(owner, np.append(start, displayed[within]), np.append(low - 1, within))
            continue
        soon = within[displayed[within] < start + FRAME_TOLERANCE]
        times, shown = np.append(start, displayed[soon]), np.append(low - 1, soon)
        if final and times[-1] < last:
            times, shown = np.append(times, last), np.append(shown, -1)
        yield Stretch(None, times, shown if number else np.full_like(shown, -1))


def _write_screen(folder: Path, screen: Screen, size: tuple[int, int], bar: tqdm) -> None:
    for name in ("data", "meta") if screen.has_frames else ("meta",):
        (folder / name).mkdir(parents=True)
    writer = _FrameWriter(screen, size)
    times: list[np.ndarray] = []
    n_frames = 0
    for number, stretch in enumerate(stretches(screen)):
        if number >= MOST_TRIALS:
            raise ValueError(f"{screen.folder}: more than {MOST_TRIALS} trials, gaps counted; save it in parts.")
        name, trial = f"{number:05d}", stretch.trial
        meta = _trial_meta(trial, len(stretch.times), n_frames)
        if screen.has_frames:
            meta["image_size"] = list(size)
            if trial is None or trial.modality in ("video", "image"):
                writer.write(folder / "data" / f"{name}.npy", stretch)
        write_yaml(folder / "meta" / f"{name}.yml", meta)
        times.append(stretch.times)
        n_frames += len(stretch.times)
        bar.update(trial is not None)
    write_screen_meta(folder, np.concatenate(times), frames=screen.has_frames)


def _trial_meta(trial: Trial | None, n_frames: int, first_frame: int) -> dict[str, Any]:
    meta: dict[str, Any] = {"first_frame_idx": first_frame, "modality": "video", "num_frames": n_frames}
    if trial is None:
        return meta | {"tier": UNUSED_TIER}
    meta["modality"] = "INVALID" if trial.modality == "invalid" else trial.modality
    if trial.tier is not None:
        meta |= {"tier": trial.tier, "trial_idx": trial.index if trial.trial_id is None else trial.trial_id}
    if trial.condition_hash is not None:
        meta["condition_hash"] = trial.condition_hash
    if trial.interleave_value is not None:
        meta["interleave_value"] = float(trial.interleave_value)
    return meta


class _FrameWriter:
    """Writes displayed frames: as bytes while all are whole grey levels, as float32 from the first one that is not."""

    def __init__(self, screen: Screen, size: tuple[int, int]):
        self.screen = screen
        self.size = size
        self.dtype: np.dtype = np.dtype(np.uint8)
        displayed = screen.timestamps
        until_next = np.append(np.diff(displayed), np.inf)
        # Times at which lookups, which forgive FRAME_TOLERANCE, find exactly this frame and not the next.
        self.times = displayed - FRAME_TOLERANCE + np.minimum(until_next, FRAME_TOLERANCE) / 2

    def write(self, file: Path, stretch: Stretch) -> None:
        still = stretch.trial is not None and stretch.trial.modality == "image"
        shape = self.size if still else (len(stretch.shown), *self.size)
        with _array_file(file, self.dtype, shape) as sink:
            for block in self._blocks(stretch.shown):
                with np.errstate(invalid="ignore"):
                    stored = block.astype(self.dtype)
                if self.dtype.kind == "u" and not np.array_equal(stored, block):
                    break
                stored.tofile(sink)
            else:
                return
        self.dtype = np.dtype(np.float32)
        self.write(file, stretch)

    def _blocks(self, shown: np.ndarray) -> Iterator[np.ndarray]:
        height, width = self.size
        for low in range(0, len(shown), FRAMES_AT_ONCE):
            part = shown[low : low + FRAMES_AT_ONCE]
            block = np.full((len(part), height, width), GREY, dtype=np.float32)
            known = part >= 0
            if known.any():
                block[known] = self.screen.frames_at(self.times[part[known]], height=height, width=width)
            yield block
