"""What a number of a recording can mean: rates, times, durations, axes, trials, missing values and identities.

Pure functions that every reader shares. Those whose names begin with `doubt_about` return None where all is well, else
a `Doubt`: its text is the message of a ValueError, its parts are those of a finding. Nothing here reads a file or does
work in proportion to a number that was given. Shape letters: T samples, N neurons, K trials.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from omnimouse.recordings.data.missing import FILLS, UNHELD

LONGEST = 7 * 86_400.0
"""Seconds of the longest recording."""

LATEST = 1e11
"""Seconds since 1970, some 3,000 years; what is later is milliseconds or nanoseconds."""

RATES: dict[str, tuple[float, float]] = {"responses": (1.0, 1000.0), "behavior": (1.0, 1e5), "video": (0.02, 1000.0)}
"""Hz between which devices sample: spikes in bins of 1 ms at most, slides of up to 50 s at least."""

ADJOIN = 1e-3
"""Seconds by which intervals that follow each other may overlap, since clocks round."""

WIDEST = 4.0
"""Times that no screen is wider than high, so that one axis must be time."""

NEGATIVE_SHARE = 0.001
"""Share of negative responses that is more than rounding."""

PASS_ACTIVITY = "Pass deconvolved activity (spks of Suite2p, events, inferred spikes) or spike counts, as they are."

UNITS = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))
"""What is taken for seconds, and how many of it are one."""

_FRAME_RATES = (2.0, 250.0)
_NO_IDENTITY = re.compile(
    r"\W*|#?(nan|nat|none|nil|null!?|n/?a|n\.a\.|ref!)|<na>|-1(\.0*)?|-9{2,5}(\.0*)?|[+-]?inf|"
    r"missing|undefined|unknown|unspecified|not available",
    re.I,
)


class Doubt(NamedTuple):
    """Why something cannot be what it is said to be."""

    expected: str  # what a sound recording has there
    found: str  # what is there
    do: str  # what it looks like, and what to do; whole sentences

    def __str__(self) -> str:
        return f"{self.found}, expected {self.expected}. {self.do}"


def is_real(value: object) -> TypeGuard[float]:
    """Whether something is a real number of Python or numpy; truth values are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def doubt_about_rate(rate: object, kind: str = "responses") -> Doubt | None:
    """Whether a number can be the sampling rate in Hz of "responses", "behavior" or "video"."""
    low, high = RATES[kind]
    expected = f"Hz, {low:g} to {high:g}"
    if not is_real(rate) or not np.isfinite(rate) or rate <= 0:
        return Doubt("Hz above 0", f"rate {rate!r}", "Pass how many samples were taken in a second.")
    value = float(rate)
    if low <= value <= high:
        return None
    interval, do = 1 / value, "Pass how many samples were taken in a second."
    if value < low and _FRAME_RATES[0] <= interval:
        do = f"It looks like the sampling interval in seconds; as a rate that is {interval:.6g} Hz."
    elif value < low and any(_FRAME_RATES[0] <= value * factor <= _FRAME_RATES[1] for factor in (1e3, 1e6)):
        do = "It looks like kHz, or like a rate of times in another unit than seconds; pass Hz."
    elif value > high:
        do = "It looks like a rate in mHz, or a sampling interval in microseconds; pass Hz."
    return Doubt(expected, f"rate {value:.6g} Hz", do)


def doubt_about_times(times: Any, kind: str = "responses") -> Doubt | None:
    """Whether `[T]` can be the seconds at which "responses", "behavior" or "video" were sampled: type, steps, length.

    Whether they increase is not asked: a fault of that kind has its own row, which the caller can name.
    """
    given = np.asarray(times)
    expected = "seconds as numbers"
    if given.dtype.kind == "m":
        return Doubt(expected, f"dtype {given.dtype}", 'Divide it by numpy.timedelta64(1, "s").')
    if given.dtype.kind == "M":
        do = 'Pass (times - times[0]) / numpy.timedelta64(1, "s"), with one zero for all devices and trials.'
        return Doubt(expected, f"dtype {given.dtype}", do)
    if given.dtype.kind not in "fiu":
        return Doubt(expected, f"dtype {given.dtype}", "Convert them to float64 seconds.")
    steps = np.diff(given.astype(np.float64).reshape(-1))
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if not len(steps):
        return None
    # Screens may show frames in bursts; devices that sample have one step.
    step = float(np.mean(steps) if kind == "video" else np.median(steps))
    low, high = RATES[kind]
    seconds = float(steps.sum())
    whole = bool((steps == np.round(steps)).all())
    if kind != "video" and whole and step <= 3:
        do = "They look like frame numbers: divide them by the frame rate (or milliseconds: divide them by 1000)."
        return Doubt("seconds", f"whole numbers in steps of {step:g}", do)
    if low <= 1 / step <= high and seconds <= LONGEST and np.nanmax(np.abs(given)) <= LATEST:
        return None
    do = "Pass seconds."
    for unit, factor in UNITS:
        if _FRAME_RATES[0] <= factor / step <= _FRAME_RATES[1]:
            do = f"They look like {unit}: divide them by {factor:.0e}."
            break
    if 1 / step > high:
        do = "They look like minutes, hours or days: convert them to seconds."
    found = f"times in steps of {step:.6g} over {seconds:.6g}"
    return Doubt(f"seconds, {low:g} to {high:g} samples in each, at most a week", found, do)


def doubt_about_duration(n_rows: int, rate: float) -> Doubt | None:
    """Whether so many rows at so many Hz are a recording of at most a week."""
    seconds = n_rows / rate
    if seconds <= LONGEST:
        return None
    found = f"{n_rows} rows at {rate:.6g} Hz, {seconds / 86_400:.4g} days"
    return Doubt("at most a week", found, "Correct the rate (Hz) or the times (s).")


def doubt_about_axes(
    shape: tuple[int, int],
    rate: float,
    *,
    n_units: int | None = None,
    n_times: int | None = None,
    times: str = "times",
) -> tuple[Doubt, bool] | None:
    """Whether an array `[T, N]` of responses looks as if neurons came first.

    Something else may name `n_units` neurons (ids, a table of regions), or `n_times` samples, which are called `times`
    (time stamps, behaviour at the same rate). `rate` is in Hz.

    Returns:
        The doubt, and whether it is proven: another length contradicts the shape as it is and fits it transposed. What
        only looks so has fewer samples than neurons, and they last less than a minute.
    """
    n_samples, n_neurons = shape
    expected, turn = "[samples, neurons], time along the first axis", "Transpose it (array.T)."
    if n_samples == n_neurons:
        return None
    for length, mine, other, what in (
        (n_units, n_neurons, n_samples, "neurons are named"),
        (n_times, n_samples, n_neurons, f"{times} are given"),
    ):
        if length is not None and length != mine and length == other:
            return Doubt(expected, f"shape {tuple(shape)}, but {length} {what}", turn), True
    if n_samples < n_neurons and n_samples / rate < 60 and n_units is None and n_times is None:
        found = f"shape {tuple(shape)}, {n_samples / rate:.3g} s of {n_neurons} neurons at {rate:.4g} Hz"
        do = f"It looks transposed: {n_neurons} samples would last {n_neurons / rate:.4g} s. If so, pass array.T."
        return Doubt(expected, found, do), False
    return None


def doubt_about_pictures(height: int, width: int) -> Doubt | None:
    """Whether frames look transposed: monitors that mice look at are wider than high."""
    if height <= width:
        return None
    do = "If x comes before y in them, swap these axes (frames.swapaxes(1, 2))."
    return Doubt("frames at least as wide as high, [frames, height, width]", f"{height} rows of {width} pixels", do)


def doubt_about_trials(
    starts: np.ndarray, ends: np.ndarray, *, start: float, end: float, rate: float
) -> tuple[Doubt, bool] | None:
    """Whether trials lie on the clock of the recording.

    `starts` and `ends` are seconds `[K]`; `rate` is that of the responses, in which trials may have been counted.

    Returns:
        The doubt, and whether more than half of the trials begin outside the recording, so that they must be on another
        clock. None where no trial leaves it by more than a second. A few that do may be a recording that ended early.
    """
    outside = (starts < start - 1) | (ends > end + 1)
    if not outside.any():
        return None
    ratio = (float(ends.max()) - start) / (end - start)
    do = "Pass seconds on the clock of the responses."
    least, most = float(ends.max()) - end, float(starts.min()) - start
    if 1 < least <= most:
        do += (
            f" All would lie within it {least:.6g} to {most:.6g} s earlier, as on a clock that starts at another time: "
            "give the responses' times on the clock of the trials, or shift the trials."
        )
    for unit, factor in (("frame numbers", rate), *UNITS):
        if ratio > 1.5 and 0.2 < ratio / factor < 1.1:
            do = f"They look like {unit}: divide them by {factor:.6g}."
            break
    earliest = float(starts.min())
    if min(start, earliest) < 1e8 < max(start, earliest):
        do = "One counts from the start of the recording, the other from 1970: use one clock."
    at = int(np.argmax(outside))
    found = (
        f"{np.count_nonzero(outside)} of {len(starts)} trials outside, the first from {starts[at]:.6g} to "
        f"{ends[at]:.6g} s"
    )
    begun = (starts < start - 1) | (starts > end + 1)
    return Doubt(f"trials within the recording, {start:.6g} to {end:.6g} s", found, do), bool(begun.mean() > 0.5)


def doubt_about_range(
    name: str, own: tuple[float, float], others: tuple[float, float], rate: float | None = None, *, share: float = 0.9
) -> Doubt | None:
    """Whether a device ends long before, or long after, the responses.

    `own` and `others` are the first and last second of both, which have at least a `share` of the longer one's time in
    common; 15 s, or a quarter of it, are forgiven. Where the device has a `rate` (Hz), the one that would fit is named.
    """
    (start, end), last = own, others[1]
    if abs(end - last) <= _forgiven(own, others, share):
        return None
    when = "before" if end < last else "after"
    do = "Correct its rate (Hz) or times (s), unless it was really stopped then; windows need both."
    if rate is not None and last > start and end > start:
        do = f"At {rate * (end - start) / (last - start):.6g} Hz instead of {rate:.6g} Hz both would end together. {do}"
    found = f"{name} ends at {end:.2f} s, {abs(end - last):.2f} s {when} the responses, which end at {last:.2f} s"
    return Doubt("devices that end at about the same time", found, do)


def doubt_about_start(
    name: str, own: tuple[float, float], others: tuple[float, float], *, share: float = 0.9
) -> Doubt | None:
    """Whether a device begins long after the responses; for the arguments see `doubt_about_range`."""
    late = own[0] - others[0]
    if late <= _forgiven(own, others, share):
        return None
    found = f"{name} begins at {own[0]:.2f} s, {late:.2f} s after the responses"
    do = "Correct its times (s), unless it was really started then; windows need both."
    return Doubt("devices that begin at about the same time", found, do)


def _forgiven(own: tuple[float, float], others: tuple[float, float], share: float) -> float:
    """Seconds by which a device and the responses may differ."""
    longer = max(own[1], others[1]) - min(own[0], others[0])
    return max(min(15.0, longer / 4), (1 - share) * longer) if np.isfinite(longer) else np.inf


def doubt_about_negatives(n_negative: int, n: int, typical: float) -> Doubt | None:
    """Whether responses are negative, which a model whose rates are above 0 and whose loss is Poisson's cannot mean.

    Of `n` values, `n_negative` are below 0; `typical` is the mean of a typical neuron, in units of its std.
    """
    share = n_negative / max(n, 1)
    if share <= NEGATIVE_SHARE:
        return None
    look = "with means of about 0, so mean-subtracted or z-scored" if abs(typical) < 0.05 else "as dF/F has"
    found = f"{share:.2%} negative values, {look}"
    return Doubt("activity of 0 and above, which a Poisson model can predict", found, PASS_ACTIVITY)


def adjoining(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Ends `[K]` of intervals sorted by start, cut back where one overlaps the next by no more than `ADJOIN`.

    Larger overlaps stay as they are, for the caller to refuse.
    """
    ends = np.array(ends, dtype=np.float64)
    if len(ends) > 1:
        over = ends[:-1] - np.asarray(starts, dtype=np.float64)[1:]
        ends[:-1] = np.where((over > 0) & (over <= ADJOIN), starts[1:], ends[:-1])
    return ends


def identity(value: object) -> str | None:
    """An identity (of a stimulus, a neuron, an animal) as text, None where nothing is identified.

    Placeholders in any spelling identify nothing: None, NaN, NaT, pandas.NA, masked entries, "", "nan", "none", "null",
    "n/a", "unknown", punctuation alone, -1, negative `FILLS`, infinity. Spaces around a text are none of it, and an
    array or a list of one value is that value.
    """
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return identity(value[0])
    if value is None or value is np.ma.masked:
        return None
    if getattr(value, "shape", None) in ((), (1,)):  # of numpy, torch and their like
        dated = getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")
        value = str(value) if dated else value.item()  # type: ignore[attr-defined]
    if (isinstance(value, float) and abs(value) >= UNHELD) or (isinstance(value, (int, float)) and -1 > value in FILLS):
        return None
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
    return None if _NO_IDENTITY.fullmatch(text) else text


def doubt_about_ids(ids: Any, n: int) -> Doubt | None:
    """Whether a vector names each of `n` neurons by an identity of its own."""
    values = np.asarray(ids).reshape(-1) if not isinstance(ids, np.ma.MaskedArray) else ids.reshape(-1)
    names = [_unit(value) for value in (values.tolist() if len(values) <= 10_000_000 else [])]
    missing, distinct = sum(name is None for name in names), len({name for name in names if name is not None})
    if len(names) == n and not missing and distinct == n:
        return None
    found = (f"{missing} missing, " if missing else "") + f"{distinct} distinct of {len(names)}"
    return Doubt(f"{n}, one a neuron", found, "Restore them, or leave them out if neurons have none.")


def _unit(value: object) -> object:
    """A neuron's identity; whole numbers, -1 included, are identities."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    return identity(value)
