"""Looking into the arrays of responses, eye tracker and treadmill for what metadata cannot show.

Shape letters: S signals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omnimouse.model.processing_omnimouse import ABSURD_STD
from omnimouse.recordings.channels import usual_channels
from omnimouse.recordings.checks.array_summary import ArraySummary, summarize
from omnimouse.recordings.checks.check_labels import check_neurons_files
from omnimouse.recordings.data.device_clocks import USUAL_OVERSHOOT
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding, Findings, Kind
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.plausible import PASS_ACTIVITY, doubt_about_negatives, doubt_about_times
from omnimouse.recordings.data.reading import open_array
from omnimouse.support.spreading import listed

USUAL_COLUMNS = {"eye_tracker": "4 (pupil size, its derivative, gaze x, gaze y)", "treadmill": "1 (running speed)"}

ORDER_ROWS = 200_000
"""Samples of the eye trace that tell the order of its columns, almost three hours at 20 Hz."""

SCALE_FACTOR = 3.0
"""Typical ratio of stored and actual std above which the statistics look like another session's."""

# fmt: off
COLUMNS = Kind("warning", "columns", "{usual}",
               "Name the channels (`channel_names` in meta.yml), or export these.")
LATE_END, USUAL_END = (
    Kind(severity, "end_time", "{end:.4f}, where the stored samples end",
         "Windows end with the stored samples; nothing to do unless the file is truncated.")
    for severity in ("warning", "info")
)
LOST = Kind("warning", "signals without any value", "none", "{do}")
FILLED = Kind("warning", "fill values", "NaN where there is no value",
              "They are read as values. Where they stand for none, write NaN.")
RISING = Kind("warning", "signals that only rise", "none", "{do}")
CONSTANT = Kind("warning", "constant signals", "none",
                "A constant neuron cannot be scored and a constant behaviour channel carries nothing.")
STATISTICS = Kind("warning", "{name}", "finite numbers{more}",
                  "Delete the statistics to have them computed from the train tier.")
ELSEWHERE = "The statistics may belong to another session; delete them to have them computed."
SCALE = Kind("warning", "scale", "about the stds of the stored array", ELSEWHERE)
LOCATION = Kind("warning", "location", "about the means of the stored array", ELSEWHERE)
SILENCE = Kind("warning", "silence", "activity that returns to about 0",
               f"It looks like fluorescence, or has an offset. {PASS_ACTIVITY}")
LOUD = Kind("warning", "scale", f"stds within a factor of {ABSURD_STD:g} of their median",
            "Leave these neurons out, or repair them: under the published profiles, they silence the others.")
NO_TIMES = Kind("warning", "timestamps", "{n} times",
                "It is not used; lookups assume start_time + i / sampling_rate.")
BACKWARD = Kind("warning", "timestamps", "strictly increasing seconds", "Check the device's clock.")
DRIFT = Kind("warning", "timestamps", "start_time + i / sampling_rate within half a sample",
             "{unit}Lookups assume the regular clock; resample the array or correct sampling_rate and start_time.")
OTHER_ORDER = Kind("warning", "channel order",
                   "column 1 to follow the change of column 0 (pupil size, its derivative, gaze x, gaze y)",
                   "Check the order of the eye tracker's columns; behaviour scores are named by it.")
UNCONFIRMED = Kind("info", "channel order", "column 1 to follow the change of column 0",
                   "The order of the eye tracker's columns could not be confirmed.")
# fmt: on


def check_device(device: SequenceDevice) -> Iterator[Finding]:
    """Everything about one sampled device: channels, times, values, statistics and companion files."""
    if device.name in USUAL_COLUMNS and device.channels is None and usual_channels(device) is None:
        yield COLUMNS(device.file, device.shape[1], usual=USUAL_COLUMNS[device.name])
    end = device.start_time + device.shape[0] / device.sampling_rate
    overshoot = device.end_time - device.start_time - device.shape[0] / device.sampling_rate
    if overshoot > 1e-6:
        kind = LATE_END if overshoot > USUAL_OVERSHOOT else USUAL_END
        yield kind(device.file.parent / "meta.yml", f"{device.end_time:.4f}, {overshoot:.3f} s later", end=end)
    summary, meta = summarize(device), device.file.parent / "meta"
    yield from check_values(device, summary)
    yield from check_statistics(device, summary, (meta / "means.npy", meta / "stds.npy"))
    yield from _check_timestamps(device)
    if device.name == "responses":
        yield from check_neurons_files(meta, device.unit_ids, device.shape[1], "cell_motor_coordinates", "fields")


def check_values(device: SequenceDevice, summary: ArraySummary) -> Iterator[Finding]:
    """NaN and infinite values, signals without any value and constant ones, and responses that no model can mean."""
    neurons, file, n = device.name == "responses", device.file, device.shape[1]
    for what, counts in (("NaN", summary.n_nan), ("infinite", summary.n_inf)):
        if counts.any():
            yield _lacking(device, what, counts / summary.rows)
    lost = np.flatnonzero(summary.n_nan >= summary.rows)
    if len(lost):
        do = "Drop these neurons." if neurons else "No window avoids them, so the strict profile has none."
        yield LOST(file, f"{len(lost)}: {listed(lost, 8)}", do=do)
    fills = summary.fills
    filled = np.flatnonzero(fills.apart(summary.lowest, summary.highest))
    if len(filled):
        first = filled[0]
        extreme = fills.lowest[first] if fills.lowest[first] < 0 else fills.highest[first]
        example = f"{extreme:.6g} in {fills.count[first] / summary.rows:.2%} of signal {first}"
        yield FILLED(file, f"{len(filled)} of {n} signals with numbers far from all others, such as {example}")
    if neurons:
        yield from check_responses(file, summary)
    rising, constant = summary.rising, np.flatnonzero(summary.std == 0)
    if len(rising):
        do = "They look like times, or like the position of a wheel; pass its change in a second, the speed."
        if neurons:
            do = "They look like times or row numbers among the neurons; leave these columns out."
        yield RISING(file, f"{len(rising)} of {n}: {listed(rising, 8)}", do=do)
    if len(constant):
        yield CONSTANT(file, f"{len(constant)} of {n}: {listed(constant, 8)}")


def _lacking(device: SequenceDevice, what: str, fractions: np.ndarray) -> Finding:
    """Signals of which a fraction of the values are NaN, or infinite; of behaviour, some NaN are usual."""
    neurons, affected = device.name == "responses", np.flatnonzero(fractions)
    if neurons or len(affected) > 8:
        most = f"up to {fractions.max():.2%} (signal {fractions.argmax()})"
        found = f"{len(affected)} of {device.shape[1]} signals, {most}"
    else:
        names = device.channels or [f"channel {number}" for number in range(device.shape[1])]
        found = ", ".join(f"{fractions[channel]:.2%} of {names[channel]}" for channel in affected)
    usual = what == "NaN" and not neurons and fractions.max() < 0.5
    expected = "few, where the eye or the wheel was lost" if usual else "none"
    do = "Training refuses windows that hold them and scoring leaves them out; repair or drop these signals."
    if what == "NaN" and not neurons:
        do = "Windows that touch them are left out."
    return Kind("info" if usual else "warning", f"{what} values", expected, do)(device.file, found)


def check_statistics(device: SequenceDevice, summary: ArraySummary, files: tuple[Path, Path]) -> Iterator[Finding]:
    """Stored means and stds, from two files, against themselves and against the array."""
    for file, values, name in zip(files, (device.means, device.stds), ("means", "stds"), strict=True):
        if values is None:
            continue
        lost, is_stds = ~usable(values), name == "stds"
        bad = np.flatnonzero(lost | (values <= 0) if is_stds else lost)
        if len(bad):
            zero, negative = np.count_nonzero(values[bad] == 0), np.count_nonzero(values[bad] < 0)
            kinds = f"{zero} zero, {negative} negative, {np.count_nonzero(lost)}" if is_stds else f"{len(bad)}"
            found, more = f"{kinds} NaN or infinite: {listed(bad, 8)}", " above 0" if is_stds else ""
            yield STATISTICS(file, found, name=name, more=more)
    if device.stds is None or device.means is None:
        return
    comparable = usable(device.stds) & (device.stds > 0) & np.isfinite(summary.std) & (summary.std > 0)
    if not comparable.any():
        return
    ratio = float(np.exp(np.median(np.abs(np.log(device.stds[comparable] / summary.std[comparable])))))
    if ratio > SCALE_FACTOR:
        yield SCALE(files[1], f"typically a factor of {ratio:.3g} apart")
    comparable &= usable(device.means)
    apart = np.abs(device.means - summary.mean)[comparable] / summary.std[comparable]
    if len(apart) and np.median(apart) > SCALE_FACTOR:
        yield LOCATION(files[0], f"typically {np.median(apart):.3g} stds apart")


def check_responses(path: Path, summary: ArraySummary) -> Iterator[Finding]:
    """Responses that a model of deconvolved activity cannot mean: its rates are above 0, its loss is a Poisson one."""
    std = summary.std
    spread = std[np.isfinite(std) & (std > 0)]
    if not len(spread):
        return
    counted = summary.rows * len(std) - (summary.n_nan + summary.n_inf).sum()
    typical = float(np.nanmedian(summary.mean / np.where(std > 0, std, np.nan)))
    negative = doubt_about_negatives(int(summary.n_negative.sum()), int(counted), typical)
    if negative is not None:
        yield Finding("warning", str(path), "negative responses", *negative)
    elif typical > 4 and float(np.nanmedian((summary.lowest - 2 * std)[std > 0])) > 0:
        yield SILENCE(path, f"typically a mean of {typical:.3g} stds, and never less than 2")
    loud = np.flatnonzero(std > ABSURD_STD * np.median(spread))
    if len(loud):
        worst = int(np.nanargmax(std))
        most = f"neuron {worst} has {std[worst] / np.median(spread):.3g} times the median"
        yield LOUD(path, f"{len(loud)} of {len(std)} neurons above: {listed(loud, 8)}; {most}")


def _check_timestamps(device: SequenceDevice) -> Iterator[Finding]:
    """Stored times of the samples, which lookups never use, so that a damaged file is no obstacle."""
    path = device.file.parent / "timestamps.npy"
    if not path.is_file():
        return
    problems = Findings()
    stored = open_array(path, problems)
    if stored is None or stored.shape != (device.shape[0],):
        yield NO_TIMES(path, problems[0].found if stored is None else stored.shape, n=device.shape[0])
        return
    times = np.array(stored, dtype=np.float64)
    times[~np.isfinite(times)] = np.nan
    drift = np.abs(times - (device.start_time + np.arange(len(times)) / device.sampling_rate))
    doubt = doubt_about_times(times, "responses" if device.name == "responses" else "behavior")
    if not (np.diff(times) > 0).all():
        yield BACKWARD(path, "steps of zero or back, NaN or infinity")
    elif drift.max() > 0.5 / device.sampling_rate:
        unit = "" if doubt is None else f"{doubt.do} "
        yield DRIFT(path, f"up to {drift.max():.4g} s away (sample {int(drift.argmax())})", unit=unit)


def check_channel_order(device: SequenceDevice) -> Iterator[Finding]:
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
        other = f"column {best[0]} follows the change of column {best[1]} with {derivative[best]:.2f}"
        yield OTHER_ORDER(device.file, f"correlation {stored:.2f}, but {other}")
    elif stored < 0.1:
        none = "no other pair of columns is a quantity and its change"
        yield UNCONFIRMED(device.file, f"correlation {stored:.2f}, and {none}")


def channel_order(device: SequenceDevice) -> np.ndarray | None:
    """Correlation `[4, 4]` of column i with the finite difference of column j, the best of forward, backward, central.

    None without four columns and 100 samples.
    """
    if device.shape[1] != 4 or device.shape[0] < 100:
        return None
    trace = np.array(device.read(np.arange(min(ORDER_ROWS, device.shape[0]))), dtype=np.float64)
    trace[~usable(trace)] = np.nan
    steps = np.diff(trace, axis=0)
    best = np.zeros((4, 4))
    for values, changes in (
        (trace[1:], steps),
        (trace[:-1], steps),
        (trace[1:-1], (steps[1:] + steps[:-1]) / 2),
    ):
        complete = np.isfinite(values).all(axis=1) & np.isfinite(changes).all(axis=1)
        if np.count_nonzero(complete) < 50:
            continue
        for i, j in zip(*np.nonzero(~np.eye(4, dtype=bool)), strict=True):
            a, b = values[complete, i], changes[complete, j]
            if a.std() > 0 and b.std() > 0:
                best[i, j] = max(best[i, j], float(np.corrcoef(a, b)[0, 1]))
    return best
