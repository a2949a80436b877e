"""One picture of a recording, sound or not: responses, behaviour, stimuli, frame times and which windows exist.

Shape letters: B bins of time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.channels import usual_channels
from omnimouse.recordings.data.channel_names import DEVICE_CHANNELS
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.recording_data import UNUSED_TIER, RecordingData, SessionParts
from omnimouse.recordings.formats.detecting import find_session_folder, open_parts
from omnimouse.recordings.views import overview
from omnimouse.support.drawing import as_svg, drawing
from omnimouse.support.files import atomic_path
from omnimouse.support.outputs import check_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

BINS = 1200
"""Columns of time at most; in short recordings, a column has two samples of the slowest device."""

RASTER_ROWS = 400
"""Rows of the responses; of larger populations, neighbours are averaged."""

COLOURS = {"video": "#0072b2", "image": "#e69f00", "blank": "#b5bac2", "invalid": "#000000"}
LOST, LINE, WINDOW = "#d55e00", "#3a4654", "#009e73"
"""Okabe and Ito's, which stay apart for colour-blind readers."""

FORMATS = (".png", ".svg", ".html")

BEHAVIOR_DEVICES = tuple(DEVICE_CHANNELS)


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
        opened: RecordingData | None = recording
        devices: dict[str, SequenceDevice | None] = {device.name: device for device in recording.devices}
        parts = SessionParts(recording.path, recording.session_key, recording.animal_id, devices, recording.screen)
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
    fatal = [finding for finding in problems if finding.severity == "fatal"]
    picture = _Picture(parts, opened, processor, fatal, _edges(parts))
    with drawing(11.0, 5.7 + 0.78 * len(picture.channels) + 0.2 * len(picture.tiers)) as figure:
        picture.draw(figure)
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


def _edges(parts: SessionParts) -> np.ndarray:
    """Edges of the columns of time `[B + 1]`: of all parts that share time with the first readable one."""
    devices = [device for device in parts.devices.values() if device is not None and device.shape[1]]
    ranges = [device.valid_range for device in devices]
    if parts.screen is not None:
        ranges.append((float(parts.screen.timestamps[0]), float(parts.screen.timestamps[-1])))
    low, high = ranges[0]  # usually the responses
    near = [(start, end) for start, end in ranges if start < high and end > low]
    start, end = min(start for start, _ in near), max(end for _, end in near)
    slowest = min((device.sampling_rate for device in devices), default=30.0)
    return overview.bin_edges(start, end, int(min(max((end - start) * slowest / 2, 20), BINS)))


def _rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=8.5, pad=2)


def _say(axis: Axes, text: str, *, colour: str = LOST) -> None:
    """A sentence in the place of data that are not there."""
    text = text if len(text) <= 140 else f"{text[:137]}..."
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=8, color=colour)
    axis.set_yticks([])


@dataclass(frozen=True)
class _Picture:
    """The parts of a recording, on columns of time between `edges` `[B + 1]`, and what is wrong with the others."""

    parts: SessionParts
    recording: RecordingData | None
    processor: OmniMouseProcessor
    fatal: list[Finding]
    edges: np.ndarray

    @property
    def unit(self) -> tuple[float, str]:
        """What seconds are multiplied with on the axis of time, and the unit that they then have."""
        return (1 / 60, "minutes") if self.edges[-1] - self.edges[0] > 180 else (1.0, "seconds")

    @property
    def middles(self) -> np.ndarray:
        """Middles of the columns on the axis of time `[B]`."""
        return self.unit[0] * (self.edges[:-1] + np.diff(self.edges) / 2 - self.edges[0])

    @property
    def channels(self) -> list[str]:
        """The behaviour device of every row of behaviour; a device without channels has one row, which says so."""
        shown = {name: self.parts.devices[name] for name in BEHAVIOR_DEVICES}
        rows = {name: min(device.shape[1], 8) if device is not None else 1 for name, device in shown.items()}
        return [name for name in BEHAVIOR_DEVICES for _ in range(rows[name] or 1)]

    @property
    def tiers(self) -> list[str]:
        """Rows of the trials; `"no tier"` is the last."""
        trials = [] if self.parts.screen is None else self.parts.screen.trials
        names = dict.fromkeys(trial.tier for trial in trials if trial.tier is not None)
        without = self.parts.screen is None or any(trial.tier is None for trial in trials)
        return [*list(names)[:12], *(["no tier"] if without else [])]

    def draw(self, figure: Figure) -> None:
        """Fills a figure."""
        with_windows = max(len(self.tiers) - ("no tier" in self.tiers), 1)
        heights = [3.0, *[0.75] * len(self.channels), 0.32 * len(self.tiers) + 0.25, 0.27 * with_windows + 0.25, 0.8]
        axes: Sequence[Axes] = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        self._draw_responses(axes[0])
        for name in BEHAVIOR_DEVICES:
            self._draw_behavior([a for a, device in zip(axes[1:], self.channels, strict=False) if device == name], name)
        self._draw_trials(axes[-3])
        self._draw_windows(axes[-2])
        self._draw_frames(axes[-1])
        scale, unit = self.unit
        length = scale * (self.edges[-1] - self.edges[0])
        axes[-1].set_xlabel(f"time since the start of the recording ({unit})")
        axes[-1].set_xlim(0, length)
        state = "; it cannot be opened" if self.fatal else ""
        figure.suptitle(
            f"Recording {self.parts.session_key} of animal {self.parts.animal_id}, {length:.1f} {unit}{state}",
            fontsize=11, color=LOST if self.fatal else LINE, x=0.01, ha="left",
        )  # fmt: skip

    def _why(self, part: str, path: str) -> str:
        """Why a part of the recording is not there."""
        for finding in self.fatal:
            if f"{os.sep}{path}" in finding.path or finding.path.endswith(path):
                return f"{part} cannot be read: {finding.field}: expected {finding.expected}, found {finding.found}"
        return f"{part} cannot be read"

    def _image(self, axis: Axes, image: np.ndarray, edges: np.ndarray, **options: Any) -> AxesImage:
        """Draws an image whose columns are bins between some of the edges."""
        low, high = self.unit[0] * (edges[[0, -1]] - self.edges[0])
        return axis.imshow(image, aspect="auto", extent=(low, high, len(image), 0), interpolation="nearest", **options)

    def _bands(self, axis: Axes, image: np.ndarray, labels: list[str]) -> None:
        """Draws an image `[rows, B, 4]` with a label for every row."""
        self._image(axis, image, self.edges)
        axis.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=7.5)
        axis.tick_params(axis="y", length=0)

    def _draw_responses(self, axis: Axes) -> None:
        device, edges = self.parts.devices["responses"], self.edges
        axis.set_ylabel("neurons")
        if device is None:
            return _say(axis, self._why("responses", "responses"))
        there = np.flatnonzero((edges[1:] > device.start_time) & (edges[:-1] < device.valid_end))
        edges = edges[there[0] : there[-1] + 2]
        means, longest = overview.binned_responses(device, edges)
        raster = overview.sorted_neurons(means, RASTER_ROWS)
        missing = ~np.isfinite(raster)
        image = self._image(axis, raster, edges, cmap="Greys", vmin=-0.5, vmax=2.5)
        shade = np.zeros((*raster.shape, 4))
        shade[missing] = (0.835, 0.369, 0, 0.25)
        self._image(axis, shade, edges)
        axis.set_yticks([0, len(raster)], ["1", f"{device.shape[1]:,}"])
        group, width = device.shape[1] / len(raster), edges[1] - edges[0]
        sampled = longest / device.sampling_rate
        axis.set_title(
            f"Responses of {device.shape[1]:,} neurons, sorted by likeness"
            f"{f', rows are means of {group:.0f}' if group >= 2 else ''}; bins of {width:.2g} s"
            f"{f', {sampled:.2g} s of which are read' if sampled < 0.9 * width else ''}"
            f"{'; missing values in orange' if missing.any() else ''}"
        )
        axis.figure.colorbar(image, ax=axis, label="deviation (std)", pad=0.01, aspect=12, shrink=0.9)

    def _draw_behavior(self, axes: Sequence[Axes], name: str) -> None:
        device, edges, spoken = self.parts.devices[name], self.edges, name.replace("_", " ")
        first, last = (edges[0], edges[-1]) if device is None else device.valid_range
        if device is None or first >= edges[-1] or last <= edges[0] or not device.shape[1]:
            text = self._why(spoken, name)
            if device is not None:
                where = f"{first:.1f} to {last:.1f} s, not {edges[0]:.1f} to {edges[-1]:.1f} s"
                text = f"{spoken} lies elsewhere in time: {where}" if device.shape[1] else f"there is no {spoken}"
            _title(axes[0], spoken.capitalize())
            return _say(axes[0], text)
        names = [channel.replace("_", " ") for channel in device.channels or usual_channels(device) or ()]
        channels, times = overview.binned_channels(device, edges, self.parts.screen), self.middles
        for number, (axis, channel) in enumerate(zip(axes, channels, strict=False)):
            title = names[number] if names else f"{spoken} column {number}"
            axis.fill_between(times, channel.low, channel.high, color=LINE, alpha=0.25, linewidth=0, rasterized=True)
            axis.plot(times, channel.mean, color=LINE, linewidth=0.7)
            seen = np.isfinite(channel.low)
            if seen.any():
                low, high = np.quantile(channel.low[seen], 0.005), np.quantile(channel.high[seen], 0.995)
                margin = 0.1 * (high - low) or 1.0
                axis.set_ylim(low - margin, high + margin)
            self._mark_lost(axis, channel.lost)
            lost = f", {channel.share_lost:.1%} missing" if channel.share_lost else ""
            _title(axis, f"{title.capitalize()} (stored units){lost}")
            axis.locator_params(axis="y", nbins=3)

    def _mark_lost(self, axis: Axes, lost: np.ndarray) -> None:
        """Shades the bins in which values are missing, the stronger the more of them."""
        if not lost.any():
            return
        colours = np.zeros((1, len(lost), 4))
        colours[0, :, :3] = _rgb(LOST)
        colours[0, :, 3] = np.where(lost > 0, 0.25 + 0.6 * lost, 0)
        low, high = axis.get_ylim()
        extent = (0, self.unit[0] * (self.edges[-1] - self.edges[0]), low, high)
        axis.imshow(colours, aspect="auto", extent=extent, interpolation="nearest", zorder=0)
        axis.set_ylim(low, high)

    def _draw_trials(self, axis: Axes) -> None:
        screen = self.parts.screen
        if screen is None:
            return _say(axis, self._why("the screen", "screen"))
        shares = overview.binned_trials(screen, self.edges)
        n_bins = len(self.edges) - 1
        image = np.zeros((len(self.tiers), n_bins, 4))
        colours = np.array([_rgb(colour) for colour in COLOURS.values()])
        for row, tier in enumerate(self.tiers):
            filled = np.stack([shares.get(tier, {}).get(modality, np.zeros(n_bins)) for modality in COLOURS])
            total = filled.sum(axis=0)
            image[row, :, :3] = (filled.T @ colours) / np.where(total > 0, total, 1)[:, None]
            image[row, :, 3] = np.clip(total, 0, 1)
        self._bands(axis, image, self.tiers)
        _title(axis, "On screen, by tier:")
        used = [trial.modality for trial in screen.trials if trial.tier != UNUSED_TIER]
        modalities = [name for name in COLOURS if any(name in found for found in shares.values())]
        for number, name in enumerate(modalities, 1):
            count, place = used.count(name), axis.transAxes
            label = f"■ {count:,} {'INVALID' if name == 'invalid' else name}{'s' * (count != 1)}"
            axis.text(0.13 * number, 1.0, label, transform=place, fontsize=8.5, color=COLOURS[name], va="bottom")

    def _draw_windows(self, axis: Axes) -> None:
        _title(axis, f"Time covered by valid windows, profile {self.processor.profile}")
        if self.recording is None:
            return _say(axis, "none: the recording cannot be opened")
        found = list(overview.binned_windows(self.recording, self.edges, self.processor).items())[:12]
        if not found:
            return _say(axis, "none: no trial has a tier")
        image = np.zeros((len(found), len(self.edges) - 1, 4))
        image[..., :3] = _rgb(WINDOW)
        labels = []
        for row, (tier, answer) in enumerate(found):
            if not isinstance(answer, str):
                image[row, :, 3], answer = answer[0], f"{answer[1]:,} starts"
            labels.append(f"{tier}: {answer}")
        self._bands(axis, image, labels)

    def _draw_frames(self, axis: Axes) -> None:
        what = "Time between frames within videos"
        _title(axis, what)
        if self.parts.screen is None:
            return _say(axis, self._why("the screen", "screen"))
        median, longest, late = overview.frame_intervals(self.parts.screen, self.edges)
        if not np.isfinite(median).any():
            return _say(axis, "no videos", colour=LINE)
        axis.plot(self.middles, 1e3 * longest, ".", color=LOST, markersize=2.5, label="longest")
        axis.plot(self.middles, 1e3 * median, ".", color=LINE, markersize=2.5, label="median")
        axis.set_yscale("log")
        low, high = 1e3 * np.nanmin(median), 1e3 * np.nanmax(longest)
        axis.set_ylim(low / 1.5, high * 2.2)
        axis.set_ylabel("ms")
        marks = sorted({float(f"{low:.3g}"), *([float(f"{high:.3g}")] if high > 1.4 * low else [])})
        axis.set_yticks(marks, [f"{mark:g}" for mark in marks])
        axis.minorticks_off()
        _title(axis, f"{what}: median and longest of each bin; {late:,} late (over 1.5 times the median)")
        axis.legend(loc="upper right", fontsize=7, ncols=2, handletextpad=0.1, borderaxespad=0)
