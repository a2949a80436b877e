"""Behaviour of recordings over arrays: channels by name, missing values, and devices on one clock each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.model.processing_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.channel_names import channel_of, similar_channels
from omnimouse.recordings.data.devices import MissingDevice, SequenceDevice
from omnimouse.recordings.data.plausible import as_missing, no_value
from omnimouse.recordings.data.reading import Findings
from omnimouse.recordings.formats.arrays.array_devices import ArrayDevice
from omnimouse.recordings.formats.arrays.clocks import Clock, as_clock, clock_name, hold
from omnimouse.recordings.formats.arrays.likes import as_array, as_vector, columns_of

_RUNNING = BEHAVIOR_CHANNELS[4]
_SIZE, _DERIVATIVE = BEHAVIOR_CHANNELS[:2]


def behavior_devices(
    channels: Mapping[str, tuple[str, np.ndarray]],
    rate: Any,
    times: Any,
    *,
    reference: Clock,
    where: Path,
    findings: Findings,
) -> tuple[SequenceDevice, SequenceDevice]:
    """Eye tracker and treadmill: running speed is the treadmill's, everything else the eye tracker's.

    Args:
        channels: of `named_channels`.
        rate, times: as `recording_from_arrays` takes them.
        reference: clock of the responses.
        where: what findings name.
        findings: what is derived, and what is read as missing, goes here.
    """
    signals: dict[str, tuple[np.ndarray, Clock]] = {}
    for name, (given, values) in channels.items():
        key = clock_name(rate, times, given, name, "behavior")
        clock = as_clock(key, len(values), rate, times, reference, label=f"behavior {given!r}", kind="behavior")
        signals[name] = _without_fills(given, values, where, findings), clock
    if _SIZE in signals and _DERIVATIVE not in signals:
        size, clock = signals[_SIZE]
        regular = size if clock.rows is None else np.where(clock.rows < 0, np.nan, size[clock.rows])
        derived = np.gradient(regular.astype(np.float64)) * clock.rate if len(regular) > 1 else np.zeros(len(regular))
        signals[_DERIVATIVE] = derived, Clock(clock.start, clock.rate, len(regular))
        findings.info(
            where / "behavior",
            _DERIVATIVE,
            expected="a channel of its own",
            found="pupil_size only",
            do="It is derived: central differences of the pupil size, per second.",
        )
    running = {name: signal for name, signal in signals.items() if name == _RUNNING}
    others = {name: signals[name] for name in sorted(signals, key=_order) if name != _RUNNING}
    return _together("eye_tracker", others, where), _together("treadmill", running, where)


def _order(name: str) -> int:
    return BEHAVIOR_CHANNELS.index(name) if name in BEHAVIOR_CHANNELS else len(BEHAVIOR_CHANNELS)


def named_channels(
    behavior: Any, names: Sequence[str], where: Path, findings: Findings
) -> dict[str, tuple[str, np.ndarray]]:
    """Channel -> the name it was given under, and its values `[samples]`; what means no channel keeps its own name.

    Raises:
        ValueError: no vectors of numbers, or two that mean one channel.
    """
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"channels: {names!r}, expected a list of names, one for each column of behavior.")
    given = _named_signals(behavior, names)
    chosen: dict[str, tuple[str, np.ndarray]] = {
        name: (name, given[name]) for name in given if name in BEHAVIOR_CHANNELS
    }
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
                stacklevel=3,
            )
            continue
        findings.info(
            where / "behavior",
            channel,
            expected=f"a channel {channel!r}",
            found=repr(name),
            do=f"It is read as {channel}. If it is something else, give it a name that means no channel.",
        )
    return chosen


def _named_signals(behavior: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    if behavior is None:
        return {}
    table = columns_of(behavior)
    if table is None:
        layout = "[samples, channels], or a mapping from names to [samples]"
        array = as_array(behavior, "behavior", 2, layout)
        n_rows, n_channels = array.shape
        if n_channels != len(names):
            turned = " It looks transposed: pass behavior.T." if n_rows == len(names) else ""
            raise ValueError(
                f"behavior: {n_channels} columns for {len(names)} channels ({', '.join(names)}).{turned} Pass "
                "channels=[...] with a name for each column, or a mapping from names to arrays."
            )
        table = {name: np.asanyarray(array[:, column]) for column, name in enumerate(names)}
    signals = {}
    for name, values in table.items():
        label = f"behavior {name!r}"
        nested = columns_of(values)
        if nested is not None and len(nested) != 1:
            raise ValueError(
                f"{label}: a table of {', '.join(nested) or 'nothing'}, expected [samples]. Pass its columns one by "
                "one, such as behavior={**table, ...}."
            )
        array = as_vector(values if nested is None else next(iter(nested.values())), label)
        if array.dtype == object and array.ndim == 1:
            array = _numbers(array, label)
        if array.ndim == 2 and 1 in array.shape:
            array = array.reshape(-1)
        signals[name] = as_array(array, label, 1, "[samples]")
    return signals


def _numbers(array: np.ndarray, label: str) -> np.ndarray:
    """Numbers among which None or pandas.NA say that there is none."""
    try:
        return np.array([np.nan if value is None else value for value in array], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label}: dtype object, expected real numbers; write NaN where there are none.") from error


def _without_fills(name: str, values: np.ndarray, where: Path, findings: Findings) -> np.ndarray:
    """Values with NaN wherever there is none, however that is written."""
    missing = no_value(values)
    data = np.ma.getdata(values)
    written = missing & ~np.isnan(data) if data.dtype.kind == "f" else missing
    if not written.any():
        return as_missing(values)
    unmasked = written & ~np.ma.getmaskarray(values)
    example = f", such as {data[unmasked][0]:g}" if unmasked.any() else ""
    findings.info(
        where / "behavior",
        name,
        expected="NaN where there is no value",
        found=f"{written.mean():.2%} masked, infinite or far from all other values{example}",
        do="They are read as missing.",
    )
    return as_missing(values)


def _together(name: str, signals: Mapping[str, tuple[np.ndarray, Clock]], where: Path) -> SequenceDevice:
    """One device of several signals, on the clock of the fastest; the others are held between their samples."""
    if not signals:
        return MissingDevice.named(name, where / name)
    fastest = max((clock for _, clock in signals.values()), key=lambda clock: clock.rate)
    start = max(clock.start for _, clock in signals.values())
    end = min(clock.end for _, clock in signals.values())
    if end <= start:
        raise ValueError(f"behavior: {', '.join(signals)} do not overlap in time; pass their times on one clock.")
    shared = Clock(start, fastest.rate, max(1, int(np.floor((end - start) * fastest.rate + 1e-6))))
    columns = [hold(values, clock, shared) for values, clock in signals.values()]
    return ArrayDevice.over(name, where / name, np.stack(columns, axis=1), shared, channels=tuple(signals))
