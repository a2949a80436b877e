"""The recordings of a pre-training: finding them, and keeping a bounded number of them open."""

from __future__ import annotations

import glob
import threading
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from omnimouse.corpus.manifest import collection
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.session_tables.session_names import matches_glob, same_animal, short_key
from omnimouse.model.session_tables.session_specs import hash_unit_ids
from omnimouse.recordings import Windows, open_recording
from omnimouse.recordings.channels import missing_modalities
from omnimouse.recordings.formats.dataset_form.dataset_tables import looks_like_dataset
from omnimouse.recordings.held_windows import HeldWindows, can_be_held
from omnimouse.support.spreading import listed
from omnimouse.training.pretraining.pretraining_recipe import RecordingsRecipe
from omnimouse.training.shared.data import choose_holding, open_windows

_DEVICES = ("responses", "screen")
"""Folders by which globs know a session folder; the other devices may be missing."""


@dataclass(frozen=True)
class SessionInfo:
    """What a run knows of a session without its data.

    Attributes:
        key: its key.
        path: folder of its recording.
        n_neurons: neurons of its population.
        animal_id: its animal; one spelling for all sessions of an animal.
        unit_ids_hash: see `SessionSpec`.
        tiers: tiers of its trials whose responses are known.
        visits: how often it is visited in each round through a process's sessions.
        missing: of "video" and "behavior" what the recording lacks.
    """

    key: str
    path: Path
    n_neurons: int
    animal_id: str
    unit_ids_hash: str | None
    tiers: tuple[str, ...]
    visits: int
    missing: tuple[str, ...] = ()


def find_sessions(recipe: RecordingsRecipe, *, warn: bool = True) -> dict[str, SessionInfo]:
    """Looks the recordings of a recipe up, by sorted keys as the recordings have them; reads metadata only.

    Where the recipe allows for sessions that are missing, it may `warn` of them.

    Raises:
        ValueError: a path or glob that matches no folder, a folder that is no recording, two recordings of one session,
            a session of the recipe's collections that is missing, a weight that no session matches, or a tier that a
            recording lacks.
    """
    wanted = {key for name in recipe.collections for key in collection(name)}
    channels = OmniMouseProcessor(profile=recipe.profile).behavior_channels
    found: dict[str, SessionInfo] = {}
    places: dict[str, Path] = {}
    for path in recording_folders(recipe.paths):
        recording = open_recording(path)
        key, animal = recording.session_key, str(recording.animal_id)
        # Collections name sessions by short keys, which a session has in common with one under its published key.
        name = short_key(key) if wanted else key
        if wanted and name not in wanted:
            continue
        if name in places:
            raise ValueError(
                f"Session {name!r} is there twice, in {places[name]} and {recording.path}. Leave one of them out of "
                "recordings.paths."
            )
        places[name] = recording.path
        missing = [tier for tier in recipe.tiers if tier not in recording.tiers]
        if missing:
            raise ValueError(
                f"Recording {recording.path} has no tier {', '.join(missing)}; it has {', '.join(recording.tiers)}. "
                "Change recordings.tiers, or leave the recording out of recordings.paths."
            )
        found[key] = SessionInfo(
            key=key,
            path=recording.path,
            n_neurons=recording.n_neurons,
            animal_id=next((i.animal_id for i in found.values() if same_animal(i.animal_id, animal)), animal),
            unit_ids_hash=hash_unit_ids(recording.unit_ids),
            tiers=tuple(tier for tier in recording.tiers if tier not in recording.withheld_tiers),
            # Of several entries that match, the last one counts.
            visits=next((n for pattern, n in reversed(recipe.weights.items()) if matches_glob(key, pattern)), 1),
            missing=missing_modalities(recording, channels),
        )
    if wanted:
        _check_collections(recipe, sorted(wanted), places, warn=warn)
    matching_sessions(found, recipe.weights, "recordings.weights")
    return dict(sorted(found.items()))


def _check_collections(recipe: RecordingsRecipe, wanted: Sequence[str], there: Collection[str], *, warn: bool) -> None:
    """Refuses, or warns of, sessions of the collections that are not there; short keys."""
    missing = [key for key in wanted if key not in there]
    if not missing:
        return
    text = (
        f"{len(missing)} of the {len(wanted)} sessions of recordings.collections ({', '.join(recipe.collections)}) are "
        f"not under recordings.paths: {', '.join(missing[:8])}{', ...' if len(missing) > 8 else '.'}"
    )
    if not there:
        raise ValueError(f"{text} There is nothing to train on. Download them, or correct recordings.paths.")
    if not recipe.allow_missing:
        raise ValueError(
            f"{text} Download them, correct recordings.paths, or set recordings.allow_missing to true to train on the "
            f"other {len(there)}."
        )
    if warn:
        warnings.warn(f"{text} The run trains on the other {len(there)}.", stacklevel=3)


def recording_folders(paths: Sequence[str]) -> list[Path]:
    """Session folders that paths and globs stand for, sorted, each once. Globs pass over what is no recording."""
    folders: set[Path] = set()
    for pattern in paths:
        place = Path(pattern).expanduser()
        if place.exists() or not glob.has_magic(pattern):
            folders.add(place.absolute())
            continue
        matches = [Path(name).absolute() for name in glob.glob(str(place), recursive=True)]
        sessions = [
            path
            for path in matches
            if all((path / device).is_dir() for device in _DEVICES)
            or any((path / "data" / kind).is_dir() for kind in ("videos", "images"))
            or looks_like_dataset(path)
        ]
        if not sessions:
            raise ValueError(
                f"recordings.paths: {pattern!r} matches {len(matches)} entries, none of them a session folder "
                f"(relative to {Path.cwd()}). Correct the pattern; it should end at the session folders."
            )
        folders.update(sessions)
    return sorted(folders)


def matching_sessions(keys: Iterable[str], patterns: Iterable[str], where: str) -> set[str]:
    """Returns the sessions that keys or globs of keys stand for.

    Raises:
        ValueError: one of the patterns matches none.
    """
    keys, matched = sorted(keys), set()
    for pattern in patterns:
        found = {key for key in keys if matches_glob(key, pattern)}
        if not found:
            raise ValueError(f"{where} names {pattern}, which no session matches; the sessions are {listed(keys)}.")
        matched |= found
    return matched


class OpenRecordings:
    """Windows of sessions, cut as the recipe says and lent to one user at a time; those used longest ago are closed.

    Args:
        capacity: the most recordings that stay open while nobody uses them.
        tiers: session -> tiers of the trials; those of the recipe by default.
    """

    def __init__(
        self,
        recipe: RecordingsRecipe,
        sessions: Mapping[str, SessionInfo],
        processor: OmniMouseProcessor,
        *,
        capacity: int,
        tiers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.recipe, self.sessions, self.processor, self.capacity = recipe, dict(sessions), processor, capacity
        self.tiers = dict.fromkeys(self.sessions, recipe.tiers) if tiers is None else tiers
        self._idle: OrderedDict[str, Windows] = OrderedDict()
        self._lock, self._holding = threading.Lock(), threading.Lock()
        self._held: dict[str, HeldWindows] = {}
        self._place: torch.device | None = None

    def hold(self, on_device: bool | str, device: torch.device) -> int:
        """From now on `lend_to_train` holds windows on a device, if so; about how many bytes they take there."""

        def all_windows() -> Iterator[Windows]:
            for key in self.sessions:
                with self.lend(key) as windows:
                    yield windows

        holds, n_bytes = choose_holding(on_device, all_windows() if on_device else (), device)
        self._place = device if holds else None
        return n_bytes if holds else 0

    @contextmanager
    def lend_to_train(self, key: str) -> Iterator[Windows | HeldWindows]:
        """Yields the windows of a session as `lend` does, or where they are held those, which any number may use."""
        with self._holding:
            if self._place is not None and key not in self._held:
                with self.lend(key) as windows:
                    if can_be_held(windows):
                        self._held[key] = HeldWindows(windows, self._place)
        if key in self._held:
            yield self._held[key]
            return
        with self.lend(key) as windows:
            yield windows

    @contextmanager
    def lend(self, key: str) -> Iterator[Windows]:
        """Yields the windows of a session, which nobody else uses meanwhile.

        A second user at the same time gets windows of their own: open files are not shared between threads.

        Raises:
            ValueError: the recording cannot be opened, or has no window in these tiers.
        """
        with self._lock:
            windows = self._idle.pop(key, None)
        if windows is None:
            recording, recipe = open_recording(self.sessions[key].path), self.recipe
            windows = open_windows(recording, self.tiers[key], recipe.stride, recipe.include_blanks, self.processor)
        yield windows
        # Only what was used without an error goes back.
        with self._lock:
            self._idle[key] = windows
            self._idle.move_to_end(key)
            while len(self._idle) > self.capacity:
                self._idle.popitem(last=False)

    @property
    def n_open(self) -> int:
        """Recordings that are open while nobody uses them."""
        return len(self._idle)
