"""Looking into the arrays of a SENSORIUM 2022 folder for what opening does not read."""

from __future__ import annotations

import numpy as np

from omnimouse.recordings.checks.check_arrays import check_values, summarize
from omnimouse.recordings.checks.check_sensorium import check_names, check_pixels, check_range, check_silence
from omnimouse.recordings.data.findings import Findings, Tally
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.sensorium.clips import ClipDevice
from omnimouse.recordings.formats.sensorium.stills import StillScreen, reduction


def check_stills(parts: SessionParts, findings: Findings, *, frame_size: tuple[int, int]) -> None:
    """Pixels of all images, whether they can be reduced, values of the responses, ids of neurons and trials.

    Args:
        parts: a folder that was opened; its behaviour was looked at then.
        findings: what is found goes here.
        frame_size: (height, width) that windows need.
    """
    screen, responses = parts.screen, parts.devices["responses"]
    assert isinstance(screen, StillScreen)
    clips, tally = screen.clips, Tally()
    size = screen.trials[0].image_size
    assert size is not None
    if reduction(size, *frame_size) is None:
        findings.fatal(
            screen.folder,
            "image size",
            expected=f"a whole multiple of {frame_size[0]} x {frame_size[1]}, such as 144 x 256 pixels",
            found=f"{size[0]} x {size[1]}"
            + (", height and width swapped" if reduction(size[::-1], *frame_size) is not None else ""),
            do="Resize the images to such a size; they are reduced by averaging over whole blocks only.",
        )
    highest, levels = {}, GreyLevels()
    for trial in range(len(clips.lengths)):
        file = clips.file("images", trial)
        image = np.asarray(clips.array("images", trial))
        levels.add(image)
        highest[file] = check_pixels(image, file, tally, "the image")
    check_range(highest, screen.folder, tally)
    levels.report_contrast(screen.folder, findings)
    if isinstance(responses, ClipDevice):
        check_silence(responses, tally)
        check_values(responses, summarize(responses), findings)
    tally.report(findings)
    check_names(parts, findings)
