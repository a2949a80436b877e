"""What was shown, as NWB files hold it: images with an index, frames with one, or frames in the order of presentation.

Shape letters: F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.data.plausible import WIDEST, doubt_about_pictures
from omnimouse.recordings.nwb.nwb_file import child, is_dataset, path_of, referred, text_of
from omnimouse.recordings.nwb.series import Converted, Series, check_stored, is_indexed
from omnimouse.recordings.nwb.unpacked import TILE_BYTES, unpack, unpack_frames


@dataclass
class ImageStack:
    """Images `[K, H, W]` that a file holds one by one."""

    images: list[Any]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.images[0].dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.images), *self.images[0].shape)

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.stack([np.asarray(image[()]) for image in self.images[part]])


def read_frames(series: Series, transposed: bool | None, scratch: Path) -> tuple[Any, np.ndarray | None]:
    """Stored frames `[K, H, W]`, and which of them each displayed frame is `[F]`, None where each is its own.

    `transposed` says whether images are stored with x before y; None: no, and refused where they look so. Frames that
    are shown are read once, by whole chunks, into the `scratch` folder.

    Raises:
        ValueError: frames in other files, of no one size, turned, or an index that counts others than there are.
    """
    index, shown, path = None, series, series.path
    images: ImageStack | None = None
    if is_indexed(series.group):
        index = _index(series)
        target = child(series.group, "indexed_timeseries")
        target = child(series.group, "indexed_images") if target is None else target
        if target is None:
            raise ValueError(f"{path}: it counts images that the file does not have; it names no template.")
        if "data" in target:
            shown = Series(path_of(target), target, child(target, "data"))
        else:
            images = _ordered_images(target)
    if "external_file" in shown.group:
        raise ValueError(_elsewhere(shown))
    if images is None:
        check_stored(shown.values)
        frames = shown.in_units(shown.values, transposed=bool(transposed))
    else:
        frames = Converted(images, transposed=bool(transposed))
    if len(frames.shape) == 2 or 0 in frames.shape:
        raise ValueError(f"{shown.path}: frames of shape {frames.shape}, expected [frames, rows, columns].")
    if transposed is None:
        _expect_pictures(shown.path, frames.shape)
    if index is not None and len(index) and index.max() >= frames.shape[0]:
        raise ValueError(
            f"{path}: it shows image {index.max()}, but {shown.path} has {frames.shape[0]}, counted from 0. "
            "Correct the file."
        )
    if len(frames.shape) > 3 and frames.shape[3] != 1:
        return frames, index  # in colour: the message is that of all arrays
    return _read_once(shown, frames, images is not None, index, bool(transposed), scratch)


def _index(series: Series) -> np.ndarray:
    check_stored(series.values)
    stored = np.asarray(series.values[()])
    whole = np.isfinite(stored) & (stored == np.floor(stored))
    if stored.ndim != 1 or not whole.all():
        found = f"shape {stored.shape}" if stored.ndim != 1 else f"{stored[~whole][0]} at frame {np.argmin(whole)}"
        raise ValueError(f"{series.path}: {found}, expected one whole number per displayed frame. Correct the file.")
    return stored.astype(np.int64)


def _elsewhere(shown: Series) -> str:
    names = [text_of(name) for name in np.asarray(shown.group["external_file"][()]).reshape(-1)]
    here = Path(shown.group.file.filename).parent
    gone = [name for name in names if not (here / name).exists()]
    state = f", of which {', '.join(gone)} cannot be found" if gone else ""
    return (
        f"{shown.path}: its frames lie in other files ({', '.join(names)}){state}, "
        "which are not read. Store them in the file, or read them and call recording_from_arrays with the frames; "
        "`video: none` in a mapping imports the rest."
    )


def _expect_pictures(path: str, shape: tuple[int, ...]) -> None:
    """Refuses frames whose axes look swapped, where no mapping states how they lie."""
    rows, columns = shape[1:3]
    if max(rows, columns) > WIDEST * min(rows, columns) and len(shape) == 3:
        raise ValueError(
            f"{path}: shape {shape}, expected [frames, rows, columns] of a screen. If time is not the first axis, "
            "store it first; if frames are of this shape, write `video_transposed: false` into a mapping."
        )
    if doubt_about_pictures(rows, columns) is not None:
        raise ValueError(
            f"{path}: frames of {rows} rows and {columns} columns, taller than wide. If x comes "
            "before y in them, write `video_transposed: true` into a mapping, else `video_transposed: false`."
        )


def _read_once(
    shown: Series, frames: Any, one_by_one: bool, index: np.ndarray | None, transposed: bool, scratch: Path
) -> tuple[Any, np.ndarray | None]:
    """The frames that are shown, unpacked where the file has them in chunks or one by one; and their index."""
    band = 1
    if not one_by_one:
        if not shown.values.chunks:
            return frames, index
        band = shown.values.chunks[0]
        if band * int(np.prod(frames.shape[1:])) * frames.dtype.itemsize > TILE_BYTES:
            frames = shown.in_units(unpack(shown.values, scratch / "frames"), transposed=transposed)
            band = 1
    wanted = None if index is None else np.unique(index[index >= 0])
    if wanted is not None and not len(wanted):
        return frames, index
    processor = OmniMouseProcessor()
    small = unpack_frames(frames, band, wanted, scratch / "shown", (processor.frame_height, processor.frame_width))
    if index is not None and wanted is not None:
        index = np.where(index < 0, -1, np.searchsorted(wanted, index))
    return small, index


def _ordered_images(group: Any) -> ImageStack:
    """The images of a container, in its order."""
    order = child(group, "order_of_images")
    if order is not None:
        images = [referred(order, reference, "order of images") for reference in order[()]]
    else:
        images = [item for item in (child(group, name) for name in group) if is_dataset(item)]
        if len(images) > 1:
            raise ValueError(f"{path_of(group)}: {len(images)} images without order_of_images; add their order.")
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        listed = ", ".join(map(str, sorted(sizes)))
        raise ValueError(f"{path_of(group)}: images of shapes {listed}, expected grey ones of one size.")
    return ImageStack(images)
