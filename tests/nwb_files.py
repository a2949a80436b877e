"""Small NWB files for tests, as pynwb writes them, and of data sets that only careless tools write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.base import ImageReferences, Images
from pynwb.file import Subject
from pynwb.image import GrayscaleImage, ImageSeries, IndexSeries
from pynwb.ophys import Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

RNG = np.random.default_rng(8)
SECONDS = 20


def empty_file(session_id: str = "m7-1-2") -> NWBFile:
    nwb = NWBFile("a session", "id", datetime(2024, 5, 1, tzinfo=timezone.utc), session_id=session_id)
    nwb.subject = Subject(subject_id="m7", species="Mus musculus")
    for name in ("ophys", "behavior"):
        nwb.create_processing_module(name, name)
    return nwb


def add_responses(nwb: NWBFile, data, name: str = "Deconvolved", container: str = "Deconvolved", **clock) -> None:
    """A response series of a plane of its own."""
    device = nwb.devices["scope"] if "scope" in nwb.devices else nwb.create_device("scope")
    plane = nwb.create_imaging_plane(
        name=f"plane of {name}", description="", device=device,
        optical_channel=OpticalChannel(name="green", description="", emission_lambda=510.0),
        excitation_lambda=920.0, imaging_rate=30.0, indicator="GCaMP6s", location="V1",
    )  # fmt: skip
    segmentation = ImageSegmentation(name=f"cells of {name}")
    nwb.processing["ophys"].add(segmentation)
    cells = segmentation.create_plane_segmentation("", plane, f"cells of {name}")
    n = data.shape[1]
    for number in range(n):
        cells.add_roi(pixel_mask=[(number, 0, 1.0)], id=100 + 3 * number)
    rois = cells.create_roi_table_region("all", region=list(range(n)))
    if container not in nwb.processing["ophys"].data_interfaces:
        nwb.processing["ophys"].add(Fluorescence(name=container))
    series = RoiResponseSeries(name=name, data=data, rois=rois, unit="a.u.", **clock)
    nwb.processing["ophys"][container].add_roi_response_series(series)


def add_template(nwb: NWBFile, frames, index, times, form: str = "template", name: str = "movie") -> None:
    """What was shown: frames with an index, images with one, or frames as they were shown."""
    if form == "plain":
        nwb.add_stimulus(ImageSeries(name=name, data=frames[index], unit="n.a.", timestamps=times))
        return
    if form == "template":
        nwb.add_stimulus_template(ImageSeries(name=f"{name} frames", data=frames, unit="n.a.", rate=30.0))
        frames = frames[:1]
    images = [GrayscaleImage(name=f"image {number}", data=frame) for number, frame in enumerate(frames)]
    order = ImageReferences(name="order_of_images", data=images)
    stack = Images(name=f"{name} images", images=images, order_of_images=order)
    nwb.add_stimulus_template(stack)
    index = index.astype(np.uint32)
    nwb.add_stimulus(IndexSeries(name=name, data=index, unit="N/A", timestamps=times, indexed_images=stack))


def written(nwb: NWBFile, path: Path) -> Path:
    """The file; an index of frames points to them as all files have it that were written before pynwb 4."""
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    with h5py.File(path, "r+") as file:
        for name in list(file["stimulus/presentation"]):
            if f"stimulus/templates/{name} frames" in file:
                series = file[f"stimulus/presentation/{name}"]
                del series["indexed_images"]
                series["indexed_timeseries"] = h5py.SoftLink(f"/stimulus/templates/{name} frames")
    return path


def small_file(*, responses: bool = True) -> NWBFile:
    """A file of 20 s and 4 neurons without anything else, to be written after additions."""
    nwb = empty_file()
    if responses:
        add_responses(nwb, RNG.gamma(2, 2, (SECONDS * 30, 4)).astype(np.float32), rate=30.0)
    return nwb


RESPONSES = "processing/ophys/Deconvolved/plane0"
N_NEURONS, N_SAMPLES, RATE = 8, 300, 10.0


@contextmanager
def plain_file(path: Path) -> Iterator[h5py.File]:
    """An NWB file of 30 s and 8 neurons by h5py, open for changes, with what an import needs and nothing else."""
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        file["general/session_id"] = "1"
        file["general/subject/subject_id"] = "m7"
        table = file.create_group("processing/ophys/ImageSegmentation/PlaneSegmentation")
        table.attrs["neurodata_type"] = "PlaneSegmentation"
        table["id"] = 10 + np.arange(N_NEURONS)
        series = file.create_group(RESPONSES)
        series.attrs["neurodata_type"] = "RoiResponseSeries"
        series["data"] = np.random.default_rng(0).gamma(1, 1, (N_SAMPLES, N_NEURONS)).astype("f4")
        series["rois"] = np.arange(N_NEURONS)
        series["rois"].attrs["table"] = table.ref
        series.create_dataset("starting_time", data=0.0).attrs["rate"] = RATE
        yield file


def replace(group: h5py.Group, name: str, data: Any, **options: Any) -> h5py.Dataset:
    """A data set in the place of another one, with its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    dataset = group.create_dataset(name, data=data, **options)
    dataset.attrs.update(attributes)
    return dataset


def add_series(
    group: h5py.Group, name: str, data: Any, rate: float | None = None, times: Any = None, unit: str = "cm/s"
) -> h5py.Group:
    """A time series with a rate or time stamps."""
    series = group.create_group(name)
    series.attrs["neurodata_type"] = "TimeSeries"
    series.create_dataset("data", data=data).attrs["unit"] = unit
    if rate is not None:
        series.create_dataset("starting_time", data=0.0).attrs["rate"] = rate
    if times is not None:
        series["timestamps"] = times
    return series


def add_trials(file: h5py.File, start: Any = None, stop: Any = None, **columns: Any) -> h5py.Group:
    """Ten trials of 3 s, or others, with a tier each unless it is given."""
    table = file.create_group("intervals/trials")
    table["start_time"] = 3.0 * np.arange(10) if start is None else start
    table["stop_time"] = table["start_time"][()] + 3.0 if stop is None else stop
    for name, values in {"tier": ["train", "final_test"] * 5, **columns}.items():
        if values is not None:
            table[name] = values
    return table


Change = Callable[[h5py.File], Any]
