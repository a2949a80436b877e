"""Looking into the arrays of responses, eye tracker and treadmill for what metadata cannot show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnimouse.model.processing_omnimouse import ABSURD_STD
from omnimouse.recordings.checks.check_labels import check_labels, check_unit_ids
from omnimouse.recordings.data.device_clocks import USUAL_OVERSHOOT
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.missing import FILLS, UNHELD, is_fill, usable
from omnimouse.recordings.data.plausible import PASS_ACTIVITY, doubt_about_negatives, doubt_about_times
from omnimouse.recordings.data.reading import open_array

EXPECTED_CHANNELS = {
    "eye_tracker": (4, "pupil size, its derivative, gaze x, gaze y"),
    "treadmill": (1, "running speed"),
}

SCALE_FACTOR = 3.0
"""Typical ratio of stored and actual std above which the statistics look like another session's."""

FILLS_FROM = max(fill for fill in FILLS if fill < 0), min(fill for fill in FILLS if fill > 0)
"""Between these, no number stands for no value."""

SPREAD, FEWEST = 200, 50
"""Rows all along an array by which signals that only rise are told, and how many it takes at least."""

ORDER_ROWS = 200_000
"""Samples of the eye trace that the channel-order check reads, almost three hours at 20 Hz."""


@dataclass
class Fills:
    """Numbers that may stand for no value (`plausible.FILLS`), which are left out of the extremes beside them.

    Attributes:
        count: of them, per signal `[S]`.
        lowest, highest: of them, per signal `[S]`; infinite where there are none.
    """

    count: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def none(cls, n: int) -> Fills:
        """Of n signals without any."""
        return cls(np.zeros(n), np.full(n, np.inf), np.full(n, -np.inf))

    def add(self, block: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """Counts those of a block `[T', S]` and returns where its other finite values are."""
        if block.dtype.kind not in "fiu" or not ((block.min() <= FILLS_FROM[0]) or (block.max() >= FILLS_FROM[1])):
            return finite
        filled = finite & (is_fill(block) | (np.abs(block) >= UNHELD))
        self.count += filled.sum(axis=0)
        self.lowest = np.minimum(self.lowest, np.where(filled, block, np.inf).min(axis=0))
        self.highest = np.maximum(self.highest, np.where(filled, block, -np.inf).max(axis=0))
        return finite & ~filled

    def apart(self, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
        """Which signals have them further from their other values than these from each other, bool `[S]`."""
        with np.errstate(invalid="ignore"):
            beyond = np.fmax(lowest - self.lowest, self.highest - highest)
            return (self.count > 0) & ~(beyond <= highest - lowest)


@dataclass(frozen=True)
class ArraySummary:
    """Per-signal counts, moments and extremes `[S]` of the finite values of an array; NaN where there are none.

    `spread` are rows `[<=2 * SPREAD, S]` all along it.
    """

    rows: int
    n_nan: np.ndarray
    n_inf: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    n_negative: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    fills: Fills
    spread: np.ndarray


def summarize(device: SequenceDevice) -> ArraySummary:
    """One pass over the array in chunks; moments about the first chunk's mean, so that large offsets keep digits."""
    n_nan, n_inf, count, total, squares, n_negative = (np.zeros(device.shape[1]) for _ in range(6))
    fills = Fills.none(device.shape[1])
    lowest, highest = (np.full(device.shape[1], extreme) for extreme in (np.inf, -np.inf))
    rows = 0
    origin: np.ndarray | None = None
    every_so_many, spread = max(1, device.shape[0] // SPREAD), [np.zeros((0, device.shape[1]))]
    for first, block in device.chunks():
        rows += len(block)
        spread.append(block[-first % every_so_many :: every_so_many])
        finite = usable(block)
        present = finite.sum(axis=0)
        if present.sum() < block.size:
            nan = np.isnan(block).sum(axis=0)
            n_nan += nan
            n_inf += len(block) - present - nan
            block = np.where(finite, block, 0)
        n_negative += np.count_nonzero(block < 0, axis=0)
        known = fills.add(block, finite)
        every = bool(known.all())
        lowest = np.minimum(lowest, (block if every else np.where(known, block, np.inf)).min(axis=0))
        highest = np.maximum(highest, (block if every else np.where(known, block, -np.inf)).max(axis=0))
        if origin is None:
            origin = block.sum(axis=0, dtype=np.float64) / np.maximum(present, 1)
        centred = block - origin
        centred[~finite] = 0
        count += present
        total += centred.sum(axis=0)
        squares += np.einsum("ts,ts->s", centred, centred)
    shift = total / np.maximum(count, 1)
    variance = np.maximum(squares / np.maximum(count, 1) - shift**2, 0)
    mean = np.where(count > 0, (0 if origin is None else origin) + shift, np.nan)
    std = np.where(count > 0, np.sqrt(variance), np.nan)
    lowest, highest = (np.where(np.isfinite(values), values, np.nan) for values in (lowest, highest))
    return ArraySummary(rows, n_nan, n_inf, mean, std, n_negative, lowest, highest, fills, np.concatenate(spread))


def check_device(device: SequenceDevice, findings: Findings) -> None:
    """Everything about one sampled device: channels, times, values, statistics and companion files."""
    expected = EXPECTED_CHANNELS.get(device.name)
    if expected is not None and device.channels is None and device.shape[1] != expected[0]:
        findings.warning(
            device.file,
            "columns",
            expected=f"{expected[0]} ({expected[1]})",
            found=str(device.shape[1]),
            do="Name the channels (`channel_names` in meta.yml), or export these.",
        )
    _check_end(device, findings)
    summary = summarize(device)
    check_values(device, summary, findings)
    meta = device.file.parent / "meta"
    check_statistics(device, summary, (meta / "means.npy", meta / "stds.npy"), findings)
    _check_clock(device, findings)
    if device.name == "responses":
        _check_units(device, findings)


def _check_end(device: SequenceDevice, findings: Findings) -> None:
    overshoot = device.end_time - device.start_time - device.shape[0] / device.sampling_rate
    if overshoot <= 1e-6:
        return
    (findings.warning if overshoot > USUAL_OVERSHOOT else findings.info)(
        device.file.parent / "meta.yml",
        "end_time",
        expected=f"{device.start_time + device.shape[0] / device.sampling_rate:.4f}, where the stored samples end",
        found=f"{device.end_time:.4f}, {overshoot:.3f} s later",
        do="Windows end with the stored samples; nothing to do unless the file is truncated.",
    )


def check_values(device: SequenceDevice, summary: ArraySummary, findings: Findings) -> None:
    """NaN and infinite values, signals without any value and constant ones, and responses that no model can mean."""
    neurons = device.name == "responses"
    for kind, counts in (("NaN", summary.n_nan), ("infinite", summary.n_inf)):
        affected = np.flatnonzero(counts)
        if not len(affected):
            continue
        fractions = counts / summary.rows
        if neurons or len(affected) > 8:
            most = f"up to {fractions.max():.2%} (signal {fractions.argmax()})"
            found = f"{len(affected)} of {device.shape[1]} signals, {most}"
        else:
            names = device.channels or [f"channel {number}" for number in range(device.shape[1])]
            found = ", ".join(f"{fractions[channel]:.2%} of {names[channel]}" for channel in affected)
        usual = kind == "NaN" and not neurons and fractions.max() < 0.5
        (findings.info if usual else findings.warning)(
            device.file,
            f"{kind} values",
            expected="none" if not usual else "few, where the eye or the wheel was lost",
            found=found,
            do="Windows that touch them are left out."
            if kind == "NaN" and not neurons
            else "Training refuses windows that hold them and scoring leaves them out; repair or drop these signals.",
        )
    lost = np.flatnonzero(summary.n_nan >= summary.rows)
    if len(lost):
        findings.warning(
            device.file,
            "signals without any value",
            expected="none",
            found=f"{len(lost)}: {_listed(lost)}",
            do="Drop these neurons." if neurons else "No window avoids them, so the strict profile has none.",
        )
    filled = np.flatnonzero(summary.fills.apart(summary.lowest, summary.highest))
    if len(filled):
        first, fills = filled[0], summary.fills
        extreme = fills.lowest[first] if fills.lowest[first] < 0 else fills.highest[first]
        findings.warning(
            device.file,
            "fill values",
            expected="NaN where there is no value",
            found=f"{len(filled)} of {device.shape[1]} signals with numbers far from all others, such as {extreme:.6g} "
            f"in {fills.count[first] / summary.rows:.2%} of signal {first}",
            do="They are read as values. Where they stand for none, write NaN.",
        )
    if neurons:
        check_responses(device.file, summary, findings)
    steps = np.diff(summary.spread, axis=0)
    rising = np.flatnonzero(~(steps < 0).any(axis=0) & ((steps > 0).sum(axis=0) > max(FEWEST, len(steps) / 2)))
    if len(rising):
        findings.warning(
            device.file,
            "signals that only rise",
            expected="none",
            found=f"{len(rising)} of {device.shape[1]}: {_listed(rising)}",
            do="They look like times or row numbers among the neurons; leave these columns out."
            if neurons
            else "They look like times, or like the position of a wheel; pass its change in a second, the speed.",
        )
    constant = np.flatnonzero(summary.std == 0)
    if len(constant):
        findings.warning(
            device.file,
            "constant signals",
            expected="none",
            found=f"{len(constant)} of {device.shape[1]}: {_listed(constant)}",
            do="A constant neuron cannot be scored and a constant behaviour channel carries nothing.",
        )


def check_statistics(
    device: SequenceDevice, summary: ArraySummary, files: tuple[Path, Path], findings: Findings
) -> None:
    """Stored means and stds, from two files, against themselves and against the array."""
    again = "Delete the statistics to have them computed from the train tier."
    for file, values, name in zip(files, (device.means, device.stds), ("means", "stds"), strict=True):
        if values is None:
            continue
        lost = ~usable(values)
        bad = np.flatnonzero(lost | (values <= 0) if name == "stds" else lost)
        if not len(bad):
            continue
        zero, negative = np.count_nonzero(values[bad] == 0), np.count_nonzero(values[bad] < 0)
        kinds = f"{zero} zero, {negative} negative, {np.count_nonzero(lost)}" if name == "stds" else f"{len(bad)}"
        findings.warning(
            file,
            name,
            expected="finite numbers above 0" if name == "stds" else "finite numbers",
            found=f"{kinds} NaN or infinite: {_listed(bad)}",
            do=again,
        )
    if device.stds is None or device.means is None:
        return
    comparable = usable(device.stds) & (device.stds > 0) & np.isfinite(summary.std) & (summary.std > 0)
    if not comparable.any():
        return
    ratio = float(np.exp(np.median(np.abs(np.log(device.stds[comparable] / summary.std[comparable])))))
    if ratio > SCALE_FACTOR:
        findings.warning(
            files[1],
            "scale",
            expected="about the stds of the stored array",
            found=f"typically a factor of {ratio:.3g} apart",
            do="The statistics may belong to another session; delete them to have them computed.",
        )
    comparable &= usable(device.means)
    apart = np.abs(device.means - summary.mean)[comparable] / summary.std[comparable]
    if len(apart) and np.median(apart) > SCALE_FACTOR:
        findings.warning(
            files[0],
            "location",
            expected="about the means of the stored array",
            found=f"typically {np.median(apart):.3g} stds apart",
            do="The statistics may belong to another session; delete them to have them computed.",
        )


def check_responses(path: Path, summary: ArraySummary, findings: Findings) -> None:
    """Responses that a model of deconvolved activity cannot mean: its rates are above 0, its loss is a Poisson one."""
    spread = summary.std[np.isfinite(summary.std) & (summary.std > 0)]
    if not len(spread):
        return
    counted = summary.rows * len(summary.std) - (summary.n_nan + summary.n_inf).sum()
    typical = float(np.nanmedian(summary.mean / np.where(summary.std > 0, summary.std, np.nan)))
    negative = doubt_about_negatives(int(summary.n_negative.sum()), int(counted), typical)
    if negative is not None:
        findings.warning(path, "negative responses", **negative._asdict())
    elif typical > 4 and float(np.nanmedian((summary.lowest - 2 * summary.std)[summary.std > 0])) > 0:
        findings.warning(
            path,
            "silence",
            expected="activity that returns to about 0",
            found=f"typically a mean of {typical:.3g} stds, and never less than 2",
            do=f"It looks like fluorescence, or has an offset. {PASS_ACTIVITY}",
        )
    loud = np.flatnonzero(summary.std > ABSURD_STD * np.median(spread))
    if len(loud):
        worst = int(np.nanargmax(summary.std))
        findings.warning(
            path,
            "scale",
            expected=f"stds within a factor of {ABSURD_STD:g} of their median",
            found=f"{len(loud)} of {len(summary.std)} neurons above: {_listed(loud)}; neuron {worst} has "
            f"{summary.std[worst] / np.median(spread):.3g} times the median",
            do="Leave these neurons out, or repair them: under the published profiles, they silence the others.",
        )


def _check_clock(device: SequenceDevice, findings: Findings) -> None:
    path = device.file.parent / "timestamps.npy"
    if not path.is_file():
        return
    # Lookups never use this file, so a damaged one is no obstacle.
    problems = Findings()
    times = open_array(path, problems)
    if times is None or times.shape != (device.shape[0],):
        found = str(times.shape) if times is not None else problems[0].found
        findings.warning(
            path,
            "timestamps",
            expected=f"{device.shape[0]} times",
            found=found,
            do="It is not used; lookups assume start_time + i / sampling_rate.",
        )
        return
    times = np.array(times, dtype=np.float64)
    times[~np.isfinite(times)] = np.nan
    drift = np.abs(times - (device.start_time + np.arange(len(times)) / device.sampling_rate))
    doubt = doubt_about_times(times, "responses" if device.name == "responses" else "behavior")
    unit = "" if doubt is None else f"{doubt.do} "
    if not (np.diff(times) > 0).all():
        findings.warning(
            path,
            "timestamps",
            expected="strictly increasing seconds",
            found="steps of zero or back, NaN or infinity",
            do="Check the device's clock.",
        )
    elif drift.max() > 0.5 / device.sampling_rate:
        findings.warning(
            path,
            "timestamps",
            expected="start_time + i / sampling_rate within half a sample",
            found=f"up to {drift.max():.4g} s away (sample {int(drift.argmax())})",
            do=f"{unit}Lookups assume the regular clock; resample the array or correct sampling_rate and start_time.",
        )


def _check_units(device: SequenceDevice, findings: Findings) -> None:
    check_unit_ids(device.file.parent / "meta/unit_ids.npy", device.unit_ids, device.shape[1], findings)
    check_labels(device.file.parent / "meta", device.shape[1], findings)
    for name in ("cell_motor_coordinates", "fields"):
        path: Path = device.file.parent / "meta" / f"{name}.npy"
        if not path.is_file():
            continue
        array = open_array(path, Findings())
        if array is None or array.ndim == 0 or len(array) != device.shape[1]:
            found = "a file that does not load" if array is None else str(array.shape)
            findings.warning(
                path,
                "length",
                expected=f"{device.shape[1]}, one per neuron",
                found=found,
                do="It is not used; restore it.",
            )


def check_channel_order(device: SequenceDevice, findings: Findings) -> None:
    """Whether column 1 is the derivative of column 0, as the order (size, derivative of size, x, y) has it.

    Files have been described with other orders, such as (x, y, their derivatives). The correlation of each column with
    the finite differences of each other column tells them apart; a contradiction is a warning, since labels of
    behaviour scores depend on the order but no number does.
    """
    derivative = channel_order(device)
    if derivative is None:
        return
    stored = derivative[1, 0]
    best = np.unravel_index(np.argmax(derivative), derivative.shape)
    if derivative[best] > 0.3 and derivative[best] > stored + 0.2:
        findings.warning(
            device.file,
            "channel order",
            expected="column 1 to follow the change of column 0 (pupil size, its derivative, gaze x, gaze y)",
            found=f"correlation {stored:.2f}, but column {best[0]} follows the change of column {best[1]} with "
            f"{derivative[best]:.2f}",
            do="Check the order of the eye tracker's columns; behaviour scores are named by it.",
        )
    elif stored < 0.1:
        findings.info(
            device.file,
            "channel order",
            expected="column 1 to follow the change of column 0",
            found=f"correlation {stored:.2f}, and no other pair of columns is a quantity and its change",
            do="The order of the eye tracker's columns could not be confirmed.",
        )


def channel_order(device: SequenceDevice) -> np.ndarray | None:
    """Correlation `[4, 4]` of column i with the change of column j; None without four columns and 100 samples."""
    if device.shape[1] != 4 or device.shape[0] < 100:
        return None
    trace = np.array(device.read(np.arange(min(ORDER_ROWS, device.shape[0]))), dtype=np.float64)
    trace[~usable(trace)] = np.nan
    return _derivative_correlations(trace)


def _derivative_correlations(trace: np.ndarray) -> np.ndarray:
    """Correlation `[S, S]` of column i with the finite difference of column j (best of forward, backward, central)."""
    n = trace.shape[1]
    steps = np.diff(trace, axis=0)
    aligned = (
        (trace[1:], steps),
        (trace[:-1], steps),
        (trace[1:-1], (steps[1:] + steps[:-1]) / 2),
    )
    best = np.zeros((n, n))
    for values, changes in aligned:
        complete = np.isfinite(values).all(axis=1) & np.isfinite(changes).all(axis=1)
        if np.count_nonzero(complete) < 50:
            continue
        for i in range(n):
            for j in range(n):
                a, b = values[complete, i], changes[complete, j]
                if i != j and a.std() > 0 and b.std() > 0:
                    best[i, j] = max(best[i, j], float(np.corrcoef(a, b)[0, 1]))
    return best


def _listed(indices: np.ndarray, limit: int = 8) -> str:
    shown = ", ".join(str(index) for index in indices[:limit])
    return f"{shown}, ..." if len(indices) > limit else shown
