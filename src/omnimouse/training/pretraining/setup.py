"""What a pre-training is made of before its first step; every function refuses what cannot work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import Mask
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.recordings.views.fingerprint import window_fingerprint
from omnimouse.support.outputs import check_output
from omnimouse.support.validation import to_mapping
from omnimouse.training.pretraining.corpus_evaluation import choose_evaluation
from omnimouse.training.pretraining.corpus_order import assign_sessions
from omnimouse.training.pretraining.corpus_recordings import OpenRecordings, SessionInfo, find_sessions
from omnimouse.training.pretraining.corpus_sessions import add_sessions, animal_groups, table_groups
from omnimouse.training.pretraining.expected_targets import required_truth
from omnimouse.training.pretraining.initialization import open_stimulus_path
from omnimouse.training.pretraining.pretraining_recipe import MasksRecipe, PretrainingRecipe
from omnimouse.training.runs.distributed import GradientSum, Processes
from omnimouse.training.runs.monitor import STEP_NUMBERS
from omnimouse.training.runs.run_folder import RunFolder
from omnimouse.training.shared.data import MaskChoice, choose_masks, named_masks
from omnimouse.training.shared.identity import architecture, data_fingerprint
from omnimouse.training.shared.optimizers import build_group

HOW_SESSIONS_ARE_FOUND = ("paths", "collections", "allow_missing")
"""Fields of `RecordingsRecipe` that may change while a run goes on, as long as they lead to the same sessions."""


@dataclass(frozen=True)
class CorpusMasks:
    """The masks of a run.

    Attributes:
        names: what messages call each mask.
        weights: their weights.
        usable: session -> position -> mask, as its recording and population can take it, of those that they can.
        needs: session -> position -> arrays that this mask needs.
        left_out: session -> how many masks it cannot serve, of those that cannot serve all.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    usable: dict[str, dict[int, Mask]]
    needs: dict[str, dict[int, tuple[str, ...]]]
    left_out: dict[str, int]


class PretrainingRun:
    """Everything the loop needs, with its first weights; unless it is `fresh`, sessions are at zero, to be restored.

    Args:
        recipe: how to train.
        folder: where results go.
        accelerator: device and precision of this process.
        fresh: whether the run begins here.
        rate: (peak, step) -> learning rate, 0 for the first step.
        last: steps of the whole run.

    Attributes:
        processes: of the run.
        model: core, and the sessions that this process owns.
        sessions: all sessions of the run.
        owned: those of this process.
        masks: what is drawn from.
        recordings: windows to train on, of the sessions of this process.
        evaluation: what is scored in between, or None.
        windows: session of this process -> fingerprint of its windows.
        data: session of this process -> fingerprint of its recording, part by part.
        core: optimizer of the core.
        tables: session -> optimizer of its tables.
        animals: animal -> optimizer of its vector.
        gradients: averages over processes.
        identity: what a checkpoint must have in common with a run that continues from it.
        held_bytes: what the windows of this process take on its device, about; 0 where they are cut from disk.
        met: masks and populations that were trained in this sitting, see `STEP_NUMBERS`.

    Raises:
        ValueError: anything in the recipe or the recordings that cannot work.
    """

    def __init__(
        self,
        recipe: PretrainingRecipe,
        folder: RunFolder,
        accelerator: Accelerator,
        *,
        fresh: bool,
        rate: Callable[[float, int], float],
        last: int,
    ) -> None:
        self.recipe, self.folder, self.accelerator, self.rate, self.last = recipe, folder, accelerator, rate, last
        self.processes = processes = Processes(accelerator)
        self.met: set[tuple[Mask, int]] = set()
        with processes.together("set the run up"):
            self.sessions = find_sessions(recipe.recordings, warn=processes.is_main)
            for info in self.sessions.values():
                check_output(folder.path, info.path, folder=True)
            keys = assign_sessions({key: info.n_neurons for key, info in self.sessions.items()}, processes.count)
            self.owned = {key: self.sessions[key] for key in keys[processes.rank]}
            processor, capacity = OmniMouseProcessor(profile=recipe.recordings.profile), recipe.loader.open_recordings
            self.model = model = build_model(recipe, processor)
            self.masks = choose_corpus_masks(recipe.masks, self.sessions, model.config)
            self.recordings = OpenRecordings(recipe.recordings, self.owned, processor, capacity=capacity)
            self.windows, self.data = _fingerprints(self.recordings)
            self.held_bytes = self.recordings.hold(recipe.loader.on_device, accelerator.device)
            self.evaluation = choose_evaluation(recipe, self.sessions, keys, processes.rank, model.config, processor)
            add_sessions(model, self.owned.values(), recipe, fresh=fresh)
            model.to(accelerator.device)
            self.core = build_group(recipe.optimizer.core, dict(model.core_named_parameters()))
            self.tables = table_groups(model, self.owned, recipe.optimizer.session)
            self.animals = animal_groups(model, self.owned.values(), recipe.optimizer.session)
            self.gradients = GradientSum(
                processes,
                list(self.core.parameters.values()),
                {name: vector for name, group in self.animals.items() for vector in group.parameters.values()},
                sorted({info.animal_id for info in self.sessions.values()}),
                identity_size=model.config.identity_size,
                n_extra=len(STEP_NUMBERS),
            )
            self.identity = pretraining_identity(recipe, self.sessions, model, accelerator.mixed_precision)


def build_model(recipe: PretrainingRecipe, processor: OmniMouseProcessor) -> OmniMouseModel:
    """Returns the core that a run begins with, without sessions, the same in every process."""
    if recipe.model.start_from is not None:
        model = OmniMouseModel.from_pretrained(recipe.model.start_from, dtype=torch.float32)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = OmniMouseModel(recipe.model.config())
            if recipe.model.initialization == "open":
                open_stimulus_path(model)
    model.processor = processor
    return model


def choose_corpus_masks(
    recipe: MasksRecipe, sessions: Mapping[str, SessionInfo], config: OmniMouseConfig
) -> CorpusMasks:
    """Finds out which masks each session of a run can serve.

    Raises:
        ValueError: a mask is listed twice or unknown, weights do not match, or a session can serve none.
    """
    names, masks = named_masks(recipe.names, config)
    if len(set(names)) < len(names):
        raise ValueError(f"masks.names lists a mask twice: {', '.join(names)}. Use masks.weights instead.")
    known: dict[tuple[int, tuple[str, ...]], MaskChoice] = {}
    chosen: dict[str, MaskChoice] = {}
    for key, info in sessions.items():
        kind = min(info.n_neurons, config.max_population), info.missing
        if kind not in known:
            known[kind] = choose_masks(
                recipe.names, recipe.weights, n_neurons=kind[0], config=config, missing=info.missing
            )
        chosen[key] = known[kind]
    places = {name: place for place, name in enumerate(names)}
    return CorpusMasks(
        names=tuple(names),
        weights=tuple(recipe.weights or [1.0] * len(masks)),
        usable={
            key: {places[name]: mask for name, mask in zip(choice.names, choice.masks, strict=True)}
            for key, choice in chosen.items()
        },
        needs={
            key: {places[name]: needs for name, needs in zip(choice.names, choice.needs_of, strict=True)}
            for key, choice in chosen.items()
        },
        left_out={key: len(choice.left_out) for key, choice in chosen.items() if choice.left_out},
    )


def _fingerprints(recordings: OpenRecordings) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Session -> fingerprint of its windows, and of its recording; refuses recordings without targets asked for."""
    windows, data = {}, {}
    for key in recordings.sessions:
        with recordings.lend(key) as found:
            windows[key], data[key] = window_fingerprint(found.starts), data_fingerprint(found)
            if recordings.recipe.targets == "expected":
                required_truth(found.recording.path)
    return windows, data


def pretraining_identity(
    recipe: PretrainingRecipe, sessions: Mapping[str, SessionInfo], model: OmniMouseModel, precision: str
) -> dict[str, Any]:
    """Returns what a checkpoint must have in common with a run that continues from it.

    Left out is what may change on the way: where files lie and by which names they are chosen (the sessions that this
    leads to are in it), how they are read, what is evaluated and written, the number of processes, and the steps as
    long as the schedule does not depend on them.
    """
    identity: dict[str, Any] = {
        f"{section}.{name}": value
        for section in ("recordings", "masks", "optimizer", "schedule")
        for name, value in to_mapping(getattr(recipe, section)).items()
        if section != "recordings" or name not in HOW_SESSIONS_ARE_FOUND
    }
    if recipe.recordings.targets == "recorded":
        del identity["recordings.targets"]  # runs begun before there was a choice
    if recipe.model.initialization != "released":
        identity["initialization"] = recipe.model.initialization
    if recipe.schedule.decay_steps:
        identity["steps"] = recipe.steps
    listing = [(key, info.n_neurons, info.animal_id, info.unit_ids_hash) for key, info in sessions.items()]
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
    return identity | {
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "mixed_precision": precision,
        "architecture": architecture(model),
        "start_from": recipe.model.start_from,
        "sessions": f"{len(listing)} with {sum(entry[1] for entry in listing)} neurons, sha256 {digest}",
    }
