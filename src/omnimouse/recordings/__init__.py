"""Recordings: opening them, checking them, cutting windows out of them."""

from omnimouse.recordings.arrays import recording_from_arrays
from omnimouse.recordings.base import Finding, Recording
from omnimouse.recordings.check import check_recording
from omnimouse.recordings.describe import describe
from omnimouse.recordings.devices import SequenceDevice
from omnimouse.recordings.figure import plot_recording
from omnimouse.recordings.nwb import import_nwb
from omnimouse.recordings.open_questions import open_questions
from omnimouse.recordings.opening import open_recording
from omnimouse.recordings.screen import Screen, Trial
from omnimouse.recordings.sensorium_stills import is_static
from omnimouse.recordings.session_writer import save_recording
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
