"""Behaviour of recordings over arrays: channels by name, missing values, and devices on one clock each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.channel_names import channel_of, similar_channels
from omnimouse.recordings.data.devices import MissingDevice, SequenceDevice
from omnimouse.recordings.data.findings import Findings, Kind
from omnimouse.recordings.data.missing import as_missing, no_value
from omnimouse.recordings.formats.arrays.array_devices import ArrayDevice
from omnimouse.recordings.formats.arrays.clocks import Clock, Timing, as_clock, hold
from omnimouse.recordings.formats.arrays.likes import as_array, as_vector, columns_of

_SIZE, _DERIVATIVE, *_, _RUNNING = BEHAVIOR_CHANNELS

# fmt: off
DERIVED = Kind("info", _DERIVATIVE, "a channel of its own",
               "It is derived: central differences of the pupil size, per second.")
READ_AS = Kind("info", "{channel}", "a channel {channel!r}",
               "It is read as {channel}. If it is something else, give it a name that means no channel.")
FILLED = Kind("info", "{name}", "NaN where there is no value", "They are read as missing.")
# fmt: on


def behavior_devices(
    channels: Mapping[str, tuple[str, np.ndarray]], timing: Timing, reference: Clock, where: Path, findings: Findings
) -> tuple[SequenceDevice, SequenceDevice]:
    """Eye tracker and treadmill: running speed is the treadmill's, everything else the eye tracker's.

    For `channels` see `named_channels`; `reference` is the clock of the responses. What is derived, and what is read as
    missing, is found, under `where`.
    """
    signals: dict[str, tuple[np.ndarray, Clock]] = {}
    for name, (given, values) in channels.items():
        key, rate, times = timing.of(given, name, "behavior")
        clock = as_clock(key, len(values), rate, times, reference, label=f"behavior {given!r}", kind="behavior")
        signals[name] = _without_fills(given, values, where, findings), clock
    if _SIZE in signals and _DERIVATIVE not in signals:
        size, clock = signals[_SIZE]
        regular = size if clock.rows is None else np.where(clock.rows < 0, np.nan, size[clock.rows])
        derived = np.gradient(regular.astype(np.float64)) * clock.rate if len(regular) > 1 else np.zeros(len(regular))
        signals[_DERIVATIVE] = derived, Clock(clock.start, clock.rate, len(regular))
        findings.append(DERIVED(where / "behavior", "pupil_size only"))
    order = [*BEHAVIOR_CHANNELS, *signals]
    running = {name: signal for name, signal in signals.items() if name == _RUNNING}
    others = {name: signals[name] for name in sorted(signals, key=order.index) if name != _RUNNING}
    return _together("eye_tracker", others, where), _together("treadmill", running, where)


def named_channels(
    behavior: Any, names: Sequence[str], where: Path, findings: Findings
) -> dict[str, tuple[str, np.ndarray]]:
    """Channel -> the name it was given under, and its values `[samples]`; what means no channel keeps its own name.

    Raises:
        ValueError: no vectors of numbers, or two that mean one channel.
    """
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"channels: {names!r}, expected a list of names, one for each column of behavior.")
    given = {} if behavior is None else _named_signals(behavior, names)
    chosen = {name: (name, given[name]) for name in given if name in BEHAVIOR_CHANNELS}
    for name, values in given.items():
        if name in chosen:
            continue
        channel = channel_of(name)
        if channel in chosen:
            raise ValueError(
                f"behavior: {chosen[channel][0]!r} and {name!r} both mean {channel}. Pass one of them, or give the "
                "other a name that means no channel."
            )
        chosen[channel or name] = name, values
        if channel is None:
            similar = " or ".join(similar_channels(name))
            warnings.warn(
                f"behavior {name!r}: no channel that models know ({', '.join(BEHAVIOR_CHANNELS)}); it is not used "
                "unless a processor names it in behavior_channels." + (f" Did you mean {similar}?" if similar else ""),
                stacklevel=4,  # whoever called recording_from_arrays
            )
            continue
        findings.append(READ_AS(where / "behavior", repr(name), channel=channel))
    return chosen


def _named_signals(behavior: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    table = columns_of(behavior)
    if table is None:
        array = as_array(behavior, "behavior", 2, "[samples, channels], or a mapping from names to [samples]")
        n_rows, n_channels = array.shape
        if n_channels != len(names):
            turned = " It looks transposed: pass behavior.T." if n_rows == len(names) else ""
            raise ValueError(
                f"behavior: {n_channels} columns for {len(names)} channels ({', '.join(names)}).{turned} Pass "
                "channels=[...] with a name for each column, or a mapping from names to arrays."
            )
        table = {name: np.asanyarray(array[:, column]) for column, name in enumerate(names)}
    return {name: _as_channel(values, f"behavior {name!r}") for name, values in table.items()}


def _as_channel(values: Any, label: str) -> np.ndarray:
    """One channel as a vector of numbers; None or pandas.NA among them say that there is none."""
    nested = columns_of(values)
    if nested is not None and len(nested) != 1:
        raise ValueError(
            f"{label}: a table of {', '.join(nested) or 'nothing'}, expected [samples]. Pass its columns one by "
            "one, such as behavior={**table, ...}."
        )
    array = as_vector(values if nested is None else next(iter(nested.values())), label)
    if array.dtype == object and array.ndim == 1:
        try:
            array = np.array([np.nan if value is None else value for value in array], dtype=np.float64)
        except (TypeError, ValueError) as error:
            reason = "dtype object, expected real numbers; write NaN where there are none."
            raise ValueError(f"{label}: {reason}") from error
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    return as_array(array, label, 1, "[samples]")


def _without_fills(name: str, values: np.ndarray, where: Path, findings: Findings) -> np.ndarray:
    """Values with NaN wherever there is none, however that is written."""
    missing, data = no_value(values), np.ma.getdata(values)
    written = missing & ~np.isnan(data) if data.dtype.kind == "f" else missing
    if written.any():
        unmasked = written & ~np.ma.getmaskarray(values)
        example = f", such as {data[unmasked][0]:g}" if unmasked.any() else ""
        found = f"{written.mean():.2%} masked, infinite or far from all other values{example}"
        findings.append(FILLED(where / "behavior", found, name=name))
    return as_missing(values)


def _together(name: str, signals: Mapping[str, tuple[np.ndarray, Clock]], where: Path) -> SequenceDevice:
    """One device of several signals, on the clock of the fastest; the others are held between their samples."""
    if not signals:
        return MissingDevice.named(name, where / name)
    clocks = [clock for _, clock in signals.values()]
    rate = max(clock.rate for clock in clocks)
    start, end = max(clock.start for clock in clocks), min(clock.end for clock in clocks)
    if end <= start:
        raise ValueError(f"behavior: {', '.join(signals)} do not overlap in time; pass their times on one clock.")
    shared = Clock(start, rate, max(1, int(np.floor((end - start) * rate + 1e-6))))
    columns = [hold(values, clock, shared) for values, clock in signals.values()]
    return ArrayDevice.over(name, where / name, np.stack(columns, axis=1), shared, channels=tuple(signals))
