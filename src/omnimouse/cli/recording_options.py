"""Commands about recordings, with their options: `simulate`, `list`, `download`, `import`, `check`, `export`."""

from __future__ import annotations

import textwrap
from pathlib import Path

from omnimouse.cli.options import Debugged, OnRecording, WithJson, argument, count, option, repeated, switch
from omnimouse.corpus.manifest import CORPUS_REPO, collection_names


class Simulate(Debugged):
    """Write a simulated recording."""

    module = "recording_commands"
    examples = """\
example:
  omnimouse simulate my-simulation/ --seed 3 --n-neurons 100 --minutes 10
  omnimouse check my-simulation/"""

    folder: Path = argument("folder to write; it must not exist yet", "FOLDER")
    seed: int = option("which mouse, and which stimuli", "N", 0)
    n_neurons: int = option("neurons of the population", "N", 100, type=count)
    minutes: float = option("length of the recording", "N", 10.0)
    animal: str | None = option("name of the animal (default: one for every seed)", "NAME")


class OfCorpus(WithJson):
    """A command about sessions of the authors' corpus."""

    what: list[str] = argument("sessions: keys, globs of keys, names of collections", "WHAT", nargs="*")
    collections: list[str] = repeated(
        "sessions of this collection (may be given several times)", "NAME", flag="--collection"
    )


class List(OfCorpus):
    """Show the authors' corpus: sessions, animals, neurons; offline."""

    module = "corpus_list"
    examples = f"""\
examples:
  omnimouse list                                              all 333 sessions, and totals
  omnimouse list '17797-*' 31002-7-6                          keys and globs of keys
  omnimouse list scaling_laws_32 --min-neurons 8000           a collection, or --collection scaling_laws_32
  omnimouse list --animal 31002 --modality image --json       modalities: blank, image, video, invalid

{textwrap.fill(f"collections: {', '.join(collection_names())}", 100, break_on_hyphens=False)}

Nothing is fetched: the manifest comes with the package."""

    animals: list[str] = repeated("sessions of this animal (may be given several times)", "ID", flag="--animal")
    min_neurons: int | None = option("sessions of at least so many neurons", "N")
    max_neurons: int | None = option("sessions of at most so many neurons", "N")
    modalities: list[str] = repeated(
        "sessions in which this was shown (given several times: all of them)", "NAME", flag="--modality"
    )


class Download(OfCorpus):
    """Download recordings of the authors' corpus from the Hub."""

    module = "corpus_download"
    examples = """\
examples:
  omnimouse download 17797-4-7 --output data/                 one session
  omnimouse download '17797-*' --output data/ --dry-run       how large would that be?
  omnimouse download --collection scaling_laws_8 --output data/
  omnimouse download --count 3 --output data/                 the first three of all

The dataset is gated: accept its terms on its page once, then `hf auth login`. A download that was interrupted goes on
when the same command is given again; session folders that are there already are left as they are. The exit status is 2
when any session failed."""

    count: int | None = option("the first so many of them (default: all)", "N")
    folder: Path = option("folder for the session folders", "FOLDER", flag="--output", required=True)
    dry_run: bool = switch("only say what would be downloaded, and how large it is")
    workers: int = option("sessions at the same time", "N", 4)
    keep_tars: bool = switch("keep the tar files, beside the session folders")
    repo: str = option("dataset on the Hub", "REPO", CORPUS_REPO)
    revision: str | None = option("its branch, tag or commit (default: main)", "NAME")


class Import(WithJson):
    """Make a session folder of an NWB file."""

    module = "recording_commands"
    examples = """\
examples:
  omnimouse import session.nwb --list                                 what is in it, under which paths
  omnimouse import session.nwb my-recording/                          responses, behaviour and video found by name
  omnimouse import session.nwb my-recording/ --mapping mapping.yaml   or as a mapping says

A mapping says what is what where names do not, for instance:

  responses: processing/ophys/Deconvolved/RoiResponseSeries
  behavior:
    running_speed: processing/behavior/wheel
    gaze_x: processing/behavior/eye[0]
    pupil_size: none
  video: stimulus/presentation/movie
  tiers: {column: movie_set, values: {train: [1, 2], final_test: [3]}}

The file is only read, in pieces. `docs/recordings.md` lists all fields."""

    file: Path = argument("NWB file; never written to", "FILE")
    folder: Path | None = argument("folder to write; must not exist yet", "FOLDER", nargs="?")
    mapping: Path | None = option("YAML that says what is what in the file", "FILE")
    list: bool = switch("only show what the file has, and under which paths")
    rois: str | None = option(
        "accepted (default): the regions that the lab has accepted, where the file says which; all; or a column of "
        "their table that is true for those to import",
        "WHICH",
    )


class Check(OnRecording, WithJson):
    """Say what is in a recording, and whether it is sound."""

    module = "recording_commands"
    examples = """\
examples:
  omnimouse check my-recording/
  omnimouse check my-recording/ --plot my-recording.png
  omnimouse check my-recording/ --json | jq '.findings[] | select(.severity == "fatal")'

The exit status is 1 when a finding is fatal, 0 otherwise."""

    plot: Path | None = option(
        "also draw it: responses, behavior, stimuli, frame times, windows; .png, .svg or .html", "FILE"
    )


class Export(WithJson):
    """Write recordings as tables that the library datasets reads, or push them to the Hub."""

    module = "recording_commands"
    examples = """\
examples:
  omnimouse export my-recording/ --output my-recordings/
  omnimouse export sessions/*/ --output my-recordings/     several, each a folder and a configuration of its own
  omnimouse export my-recording/ --push me/recordings --private

Windows cut from what is written are those of the recording, bit for bit. `datasets.load_dataset` reads it too; what was
pushed is opened by open_recording("me/recordings", session=KEY)."""

    recordings: list[Path] = argument("folder of a recording; never written to", "RECORDING", nargs="+")
    output: Path | None = option("folder that collects recordings in this form", "FOLDER")
    push: str | None = option("dataset repo to push to, user/name; it is created if needed", "REPO")
    private: bool | None = switch("make a repo that is created private", None)
