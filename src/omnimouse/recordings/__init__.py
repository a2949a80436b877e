"""Recordings: opening them, checking them, cutting windows out of them."""

from omnimouse.recordings.checks.check import check_recording
from omnimouse.recordings.checks.open_questions import open_questions
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding
from omnimouse.recordings.data.screen import Screen, Trial
from omnimouse.recordings.formats.sensorium.stills import is_static
from omnimouse.recordings.from_arrays import recording_from_arrays
from omnimouse.recordings.nwb.importing import import_nwb
from omnimouse.recordings.recording import Recording, open_recording, save_recording
from omnimouse.recordings.views.figure import plot_recording
from omnimouse.recordings.views.overview_text import describe
from omnimouse.recordings.windows import Windows, mean_responses

__all__ = [
    "Finding",
    "Recording",
    "Screen",
    "SequenceDevice",
    "Trial",
    "Windows",
    "check_recording",
    "describe",
    "import_nwb",
    "is_static",
    "mean_responses",
    "open_questions",
    "open_recording",
    "plot_recording",
    "recording_from_arrays",
    "save_recording",
]
