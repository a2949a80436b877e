"""One picture of a recording, sound or not: responses, behaviour, stimuli, frame times and which windows exist.

Shape letters: B bins of time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.channels import usual_channels
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.recording_data import UNUSED_TIER, RecordingData, SessionParts
from omnimouse.recordings.data.screen import Screen
from omnimouse.recordings.formats.locating import find_session_folder, open_parts
from omnimouse.recordings.views import overview
from omnimouse.support.drawing import as_svg, drawing
from omnimouse.support.files import atomic_path
from omnimouse.support.outputs import check_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 1200
"""Columns of time at most; in short recordings, a column has two samples of the slowest device."""

RASTER_ROWS = 400
"""Rows of the responses; of larger populations, neighbours are averaged."""

COLOURS = {"video": "#0072b2", "image": "#e69f00", "blank": "#b5bac2", "invalid": "#000000"}
LOST, LINE, WINDOW = "#d55e00", "#3a4654", "#009e73"
"""Okabe and Ito's, which stay apart for colour-blind readers."""

FORMATS = (".png", ".svg", ".html")

BEHAVIOR_DEVICES = ("eye_tracker", "treadmill")


def plot_recording(
    recording: RecordingData | str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    processor: OmniMouseProcessor | None = None,
    findings: Sequence[Finding] = (),
) -> Path:
    """Draw a recording: what was recorded, what was shown, where values are missing, and which windows exist.

    Responses are averages over 1,200 bins of time, of which no more than 256 MiB are read; behaviour is read whole, in
    pieces. Parts that cannot be read are named in the picture, and the others are drawn.

    Args:
        recording: a recording, or the path of one that need not be sound.
        file: `.png`, `.svg` or `.html`; appears when it is whole, and must not lie in the recording.
        processor: rules for the question which windows exist; profile "strict" when not given.
        findings: listed in an `.html` file, such as those of `check_recording`.

    Returns:
        The file.

    Raises:
        ValueError: nothing of the recording can be read, or the file has another suffix or no place to lie in.
        ImportError: matplotlib is missing.
    """
    file = Path(file)
    if file.suffix.lower() not in FORMATS:
        raise ValueError(f"{file}: a picture of a recording is written as one of {', '.join(FORMATS)}; name it so")
    problems = Findings()
    if isinstance(recording, RecordingData):
        devices: dict[str, SequenceDevice | None] = {device.name: device for device in recording.devices}
        parts = SessionParts(
            recording.path, recording.session_key, recording.animal_id, devices, recording.screen,
            recording.withheld_tiers,
        )  # fmt: skip
        opened: RecordingData | None = recording
    else:
        folder = find_session_folder(recording, problems)
        if folder is None:
            raise ValueError(f"{os.fspath(recording)} cannot be drawn: {problems[0] if problems else 'nothing there'}")
        parts = open_parts(folder, problems)
        opened = parts.recording(problems)
    check_output(file, parts.path)
    if parts.screen is None and not any(parts.devices.values()):
        raise ValueError(f"{parts.path} cannot be drawn, nothing of it can be read: {problems[0]}")
    processor = processor if processor is not None else OmniMouseProcessor(profile="strict")
    channels = sum(_n_channels(parts.devices[name], name) for name in BEHAVIOR_DEVICES)
    with drawing(11.0, 5.7 + 0.78 * channels + 0.2 * len(_tiers(parts.screen))) as figure:
        _draw(figure, parts, opened, processor, [finding for finding in problems if finding.severity == "fatal"])
        _save(figure, file, f"Recording {parts.session_key}", findings)
    return file


def _save(figure: Figure, file: Path, title: str, findings: Sequence[Finding]) -> None:
    with atomic_path(file) as temporary:
        if file.suffix.lower() == ".png":
            figure.savefig(temporary, format="png", dpi=110)
            return
        text = as_svg(figure)
        if file.suffix.lower() == ".html":
            listed = "".join(f"<li>{escape(str(finding))}</li>" for finding in findings)
            text = (
                f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
                "<style>body { font: 14px sans-serif; margin: 2em auto; max-width: 75em; } svg { width: 100%; height: "
                f"auto; }}</style>\n</head>\n<body>\n{text[text.index('<svg') :]}\n"
                f"{f'<h2>Findings</h2><ul>{listed}</ul>' if listed else ''}\n</body>\n</html>\n"
            )
        temporary.write_text(text, encoding="utf-8")


def _draw(
    figure: Figure,
    parts: SessionParts,
    recording: RecordingData | None,
    processor: OmniMouseProcessor,
    fatal: list[Finding],
) -> None:
    start, end = _time_range(parts)
    edges = overview.bin_edges(start, end, _n_bins(parts, end - start))
    tiers = _tiers(parts.screen)
    channels = [(name, c) for name in BEHAVIOR_DEVICES for c in range(_n_channels(parts.devices[name], name))]
    with_windows = max(len(tiers) - ("no tier" in tiers), 1)
    heights = [3.0, *[0.75] * len(channels), 0.32 * len(tiers) + 0.25, 0.27 * with_windows + 0.25, 0.8]
    axes: Sequence[Axes] = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_responses(axes[0], parts.devices["responses"], edges, fatal)
    for name in BEHAVIOR_DEVICES:
        mine = [axis for axis, (device, _) in zip(axes[1:], channels, strict=False) if device == name]
        _draw_behavior(mine, parts.devices[name], name, edges, parts.screen, fatal)
    _draw_trials(axes[-3], parts.screen, tiers, edges, fatal)
    _draw_windows(axes[-2], recording, edges, processor)
    _draw_frames(axes[-1], parts.screen, edges, fatal)
    axes[-1].set_xlabel(f"time since the start of the recording ({_unit(edges)[1]})")
    axes[-1].set_xlim(0, _unit(edges)[0] * (end - start))
    state = "; it cannot be opened" if fatal else ""
    figure.suptitle(
        f"Recording {parts.session_key} of animal {parts.animal_id}, {_unit(edges)[0] * (end - start):.1f} "
        f"{_unit(edges)[1]}{state}",
        fontsize=11, color=LOST if fatal else LINE, x=0.01, ha="left",
    )  # fmt: skip


def _time_range(parts: SessionParts) -> tuple[float, float]:
    """Start and end of the picture: of all parts that share time with the first readable one, usually the responses."""
    ranges = [device.valid_range for device in parts.devices.values() if device is not None and device.shape[1]]
    if parts.screen is not None:
        ranges.append((float(parts.screen.timestamps[0]), float(parts.screen.timestamps[-1])))
    low, high = ranges[0]
    near = [(start, end) for start, end in ranges if start < high and end > low]
    return min(start for start, _ in near), max(end for _, end in near)


def _n_bins(parts: SessionParts, seconds: float) -> int:
    rates = [device.sampling_rate for device in parts.devices.values() if device is not None and device.shape[1]]
    return int(min(max(seconds * min(rates, default=30.0) / 2, 20), BINS))


def _unit(edges: np.ndarray) -> tuple[float, str]:
    """What seconds are multiplied with on the axis of time, and the unit that they then have."""
    return (1 / 60, "minutes") if edges[-1] - edges[0] > 180 else (1.0, "seconds")


def _middles(edges: np.ndarray) -> np.ndarray:
    return _unit(edges)[0] * (edges[:-1] + np.diff(edges) / 2 - edges[0])


def _n_channels(device: SequenceDevice | None, name: str) -> int:
    return min(device.shape[1], 8) if device is not None and device.shape[1] else 1


def _tiers(screen: Screen | None) -> list[str]:
    if screen is None:
        return ["no tier"]
    names = dict.fromkeys(trial.tier for trial in screen.trials if trial.tier is not None)
    without = any(trial.tier is None for trial in screen.trials)
    return [*list(names)[:12], *(["no tier"] if without else [])]


def _say(axis: Axes, text: str, *, colour: str = LOST) -> None:
    """A sentence in the place of data that are not there."""
    text = text if len(text) <= 140 else f"{text[:137]}..."
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=8, color=colour)
    axis.set_yticks([])


def _why(fatal: list[Finding], part: str, path: str) -> str:
    for finding in fatal:
        if f"{os.sep}{path}" in finding.path or finding.path.endswith(path):
            return f"{part} cannot be read: {finding.field}: expected {finding.expected}, found {finding.found}"
    return f"{part} cannot be read"


def _outside(device: SequenceDevice, edges: np.ndarray) -> bool:
    return device.valid_range[0] >= edges[-1] or device.valid_range[1] <= edges[0]


def _image(axis: Axes, image: np.ndarray, edges: np.ndarray, *, origin: float | None = None, **options: Any) -> Any:
    """Draw an image whose columns are bins; `origin` is the time of the axis's zero if it is not the first edge."""
    low, high = edges[[0, -1]] - (edges[0] if origin is None else origin)
    scale = options.pop("scale", _unit(edges)[0])
    extent = (scale * low, scale * high, len(image), 0)
    return axis.imshow(image, aspect="auto", extent=extent, interpolation="nearest", **options)


def _draw_responses(axis: Axes, device: SequenceDevice | None, edges: np.ndarray, fatal: list[Finding]) -> None:
    axis.set_ylabel("neurons")
    if device is None:
        return _say(axis, _why(fatal, "responses", "responses"))
    origin, scale = edges[0], _unit(edges)[0]
    there = np.flatnonzero((edges[1:] > device.start_time) & (edges[:-1] < device.valid_end))
    edges = edges[there[0] : there[-1] + 2]
    means, longest = overview.binned_responses(device, edges)
    raster = overview.sorted_neurons(means, RASTER_ROWS)
    missing = ~np.isfinite(raster)
    image = _image(axis, raster, edges, origin=origin, scale=scale, cmap="Greys", vmin=-0.5, vmax=2.5)
    shade = np.zeros((*raster.shape, 4))
    shade[missing] = (0.835, 0.369, 0, 0.25)
    _image(axis, shade, edges, origin=origin, scale=scale)
    axis.set_yticks([0, len(raster)], ["1", f"{device.shape[1]:,}"])
    group = device.shape[1] / len(raster)
    grouped = f", rows are means of {group:.0f}" if group >= 2 else ""
    width = edges[1] - edges[0]
    sampled = longest / device.sampling_rate
    partly = f", {sampled:.2g} s of which are read" if sampled < 0.9 * width else ""
    axis.set_title(
        f"Responses of {device.shape[1]:,} neurons, sorted by likeness{grouped}; bins of {width:.2g} s{partly}"
        f"{'; missing values in orange' if missing.any() else ''}"
    )
    axis.figure.colorbar(image, ax=axis, label="deviation (std)", pad=0.01, aspect=12, shrink=0.9)
    return None


def _draw_behavior(
    axes: Sequence[Axes], device: SequenceDevice | None, name: str, edges: np.ndarray, screen: Screen | None,
    fatal: list[Finding],
) -> None:  # fmt: skip
    spoken = name.replace("_", " ")
    if device is None or _outside(device, edges) or not device.shape[1]:
        text = _why(fatal, spoken, name)
        if device is not None:
            first, last = device.valid_range
            text = (
                f"{spoken} lies elsewhere in time: {first:.1f} to {last:.1f} s, not {edges[0]:.1f} to {edges[-1]:.1f} s"
            )
            text = text if device.shape[1] else f"there is no {spoken}"
        axes[0].set_title(spoken.capitalize(), fontsize=8.5, pad=2)
        return _say(axes[0], text)
    times = _middles(edges)
    names = [channel.replace("_", " ") for channel in device.channels or usual_channels(device) or ()]
    for number, (axis, channel) in enumerate(zip(axes, overview.binned_channels(device, edges, screen), strict=False)):
        title = names[number] if names else f"{spoken} column {number}"
        axis.fill_between(times, channel.low, channel.high, color=LINE, alpha=0.25, linewidth=0, rasterized=True)
        axis.plot(times, channel.mean, color=LINE, linewidth=0.7)
        seen = np.isfinite(channel.low)
        if seen.any():
            low, high = np.quantile(channel.low[seen], 0.005), np.quantile(channel.high[seen], 0.995)
            margin = 0.1 * (high - low) or 1.0
            axis.set_ylim(low - margin, high + margin)
        _mark_lost(axis, channel.lost, edges)
        lost = f", {channel.share_lost:.1%} missing" if channel.share_lost else ""
        axis.set_title(f"{title.capitalize()} (stored units){lost}", fontsize=8.5, pad=2)
        axis.locator_params(axis="y", nbins=3)
    return None


def _mark_lost(axis: Axes, lost: np.ndarray, edges: np.ndarray) -> None:
    """Shade the bins in which values are missing, the stronger the more of them."""
    if not lost.any():
        return
    colours = np.zeros((1, len(lost), 4))
    colours[0, :, :3] = [int(LOST[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    colours[0, :, 3] = np.where(lost > 0, 0.25 + 0.6 * lost, 0)
    low, high = axis.get_ylim()
    extent = (0, _unit(edges)[0] * (edges[-1] - edges[0]), low, high)
    axis.imshow(colours, aspect="auto", extent=extent, interpolation="nearest", zorder=0)
    axis.set_ylim(low, high)


def _draw_trials(axis: Axes, screen: Screen | None, tiers: list[str], edges: np.ndarray, fatal: list[Finding]) -> None:
    if screen is None:
        return _say(axis, _why(fatal, "the screen", "screen"))
    shares = overview.binned_trials(screen, edges)
    n_bins = len(edges) - 1
    image = np.zeros((len(tiers), n_bins, 4))
    for row, tier in enumerate(tiers):
        filled = np.stack([shares.get(tier, {}).get(modality, np.zeros(n_bins)) for modality in COLOURS])
        colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS.values()])
        total = filled.sum(axis=0)
        image[row, :, :3] = (filled.T @ colours) / np.where(total > 0, total, 1)[:, None]
        image[row, :, 3] = np.clip(total, 0, 1)
    _image(axis, image, edges)
    axis.set_yticks(np.arange(len(tiers)) + 0.5, tiers, fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    modalities = [name for name in COLOURS if any(name in found for found in shares.values())]
    used = [trial for trial in screen.trials if trial.tier != UNUSED_TIER]
    counts = {name: sum(trial.modality == name for trial in used) for name in modalities}
    axis.set_title("On screen, by tier:", fontsize=8.5, pad=2)
    x = 0.13
    for name in modalities:
        label = f"■ {counts[name]:,} {'INVALID' if name == 'invalid' else name}{'s' * (counts[name] != 1)}"
        axis.text(x, 1.0, label, transform=axis.transAxes, fontsize=8.5, color=COLOURS[name], va="bottom")
        x += 0.13
    return None


def _draw_windows(
    axis: Axes, recording: RecordingData | None, edges: np.ndarray, processor: OmniMouseProcessor
) -> None:
    axis.set_title(f"Time covered by valid windows, profile {processor.profile}", fontsize=8.5, pad=2)
    if recording is None:
        return _say(axis, "none: the recording cannot be opened")
    found = overview.binned_windows(recording, edges, processor)
    found = dict(list(found.items())[:12])
    if not found:
        return _say(axis, "none: no trial has a tier")
    image = np.zeros((len(found), len(edges) - 1, 4))
    image[..., :3] = [int(WINDOW[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    labels = []
    for row, (tier, answer) in enumerate(found.items()):
        text = answer
        if not isinstance(answer, str):
            image[row, :, 3], text = answer[0], f"{answer[1]:,} starts"
        labels.append(f"{tier}: {text}")
    _image(axis, image, edges)
    axis.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    return None


def _draw_frames(axis: Axes, screen: Screen | None, edges: np.ndarray, fatal: list[Finding]) -> None:
    axis.set_title("Time between frames within videos", fontsize=8.5, pad=2)
    if screen is None:
        return _say(axis, _why(fatal, "the screen", "screen"))
    median, longest, late = overview.frame_intervals(screen, edges)
    if not np.isfinite(median).any():
        return _say(axis, "no videos", colour=LINE)
    times = _middles(edges)
    axis.plot(times, 1e3 * longest, ".", color=LOST, markersize=2.5, label="longest")
    axis.plot(times, 1e3 * median, ".", color=LINE, markersize=2.5, label="median")
    axis.set_yscale("log")
    low, high = 1e3 * np.nanmin(median), 1e3 * np.nanmax(longest)
    axis.set_ylim(low / 1.5, high * 2.2)
    axis.set_ylabel("ms")
    marks = sorted({float(f"{low:.3g}"), *([float(f"{high:.3g}")] if high > 1.4 * low else [])})
    axis.set_yticks(marks, [f"{mark:g}" for mark in marks])
    axis.minorticks_off()
    axis.set_title(
        f"Time between frames within videos: median and longest of each bin; {late:,} late (over 1.5 times the median)",
        fontsize=8.5, pad=2,
    )  # fmt: skip
    axis.legend(loc="upper right", fontsize=7, ncols=2, handletextpad=0.1, borderaxespad=0)
    return None
