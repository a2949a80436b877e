"""What a pre-training is made of before its first step; every function refuses what cannot work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from omnimouse.model.masks import Mask, as_mask, without_modalities
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.support.outputs import check_output
from omnimouse.support.spreading import spread
from omnimouse.support.validation import to_mapping
from omnimouse.training.pretraining.assignment import assign_sessions
from omnimouse.training.pretraining.corpus_evaluation import CorpusEvaluation
from omnimouse.training.pretraining.corpus_recordings import (
    OpenRecordings,
    SessionInfo,
    find_sessions,
    matching_sessions,
)
from omnimouse.training.pretraining.corpus_sessions import FirstVectors, animal_groups, session_spec, table_groups
from omnimouse.training.pretraining.expected_targets import require_truth
from omnimouse.training.pretraining.initialization import open_stimulus_path
from omnimouse.training.pretraining.pretraining_recipe import AUTO, EVALUATION_TIERS, PretrainingRecipe
from omnimouse.training.runs.distributed import GradientSum, Processes
from omnimouse.training.runs.monitor import STEP_NUMBERS
from omnimouse.training.runs.run_folder import RunFolder
from omnimouse.training.shared.data import MaskChoice, choose_masks, named_masks
from omnimouse.training.shared.identity import architecture, data_fingerprint, window_fingerprint
from omnimouse.training.shared.optimizers import ParameterGroup, build_group

if TYPE_CHECKING:
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

HOW_SESSIONS_ARE_FOUND = ("paths", "collections", "allow_missing")
"""Fields of `RecordingsRecipe` that may change while a run goes on, as long as they lead to the same sessions."""


@dataclass(frozen=True)
class CorpusMasks:
    """The masks of a run.

    Attributes:
        names: what messages call each mask.
        masks: the masks.
        weights: their weights.
        usable: session -> masks that its population can serve.
        needs: session -> arrays that these masks need.
        left_out: session -> how many masks it cannot serve, of those that cannot serve all.
        missing: session -> of "video" and "behavior" what its recording lacks, of those that lack any.
    """

    names: tuple[str, ...]
    masks: tuple[Mask, ...]
    weights: tuple[float, ...]
    usable: dict[str, frozenset[int]]
    needs: dict[str, tuple[str, ...]]
    left_out: dict[str, int]
    missing: dict[str, tuple[str, ...]]

    def of(self, session: str, index: int) -> Mask:
        """One of the masks as a session can take it: without what its recording lacks."""
        return without_modalities(self.masks[index], self.missing.get(session, ()))


@dataclass(frozen=True)
class PretrainingRun:
    """Everything the loop needs and does not change.

    Attributes:
        recipe: how to train.
        folder: where results go.
        accelerator: device and precision.
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
        rate: (peak, step) -> learning rate, 0 for the first step.
        last: steps of the whole run.
        identity: what a checkpoint must have in common with a run that continues from it.
    """

    recipe: PretrainingRecipe
    folder: RunFolder
    accelerator: Accelerator
    processes: Processes
    model: OmniMouseModel
    sessions: dict[str, SessionInfo]
    owned: dict[str, SessionInfo]
    masks: CorpusMasks
    recordings: OpenRecordings
    evaluation: CorpusEvaluation | None
    windows: dict[str, str]
    data: dict[str, dict[str, str]]
    core: ParameterGroup
    tables: dict[str, ParameterGroup]
    animals: dict[str, ParameterGroup]
    gradients: GradientSum
    rate: Callable[[float, int], float]
    last: int
    identity: dict[str, Any]


def prepare_run(
    recipe: PretrainingRecipe,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    fresh: bool,
    rate: Callable[[float, int], float],
    last: int,
) -> PretrainingRun:
    """Builds a run, whose weights are the first ones.

    Args:
        recipe: how to train.
        folder: where results go.
        accelerator: of this process.
        fresh: whether the run begins here; else the weights of the sessions are left at zero, to be restored.
        rate: see `PretrainingRun`.
        last: see `PretrainingRun`.

    Raises:
        ValueError: anything in the recipe or the recordings that cannot work.
    """
    processes = Processes(accelerator)
    with processes.together("set the run up"):
        sessions = find_sessions(recipe.recordings, warn=processes.is_main)
        for info in sessions.values():
            check_output(folder.path, info.path, folder=True)
        keys = assign_sessions({key: info.n_neurons for key, info in sessions.items()}, processes.count)
        owned = {key: sessions[key] for key in keys[processes.rank]}
        processor = OmniMouseProcessor(profile=recipe.recordings.profile)
        model = build_model(recipe, processor)
        masks = _choose_masks(recipe, sessions, model)
        recordings = _open(recipe, owned, recipe.recordings.tiers, processor)
        windows, data = {}, {}
        for key in owned:
            with recordings.lend(key) as found:
                windows[key], data[key] = window_fingerprint(found.starts), data_fingerprint(found)
                if recipe.recordings.targets == "expected":
                    require_truth(found)
        evaluation = _make_evaluation(recipe, sessions, keys, processes.rank, model, processor)
        _add_sessions(model, owned, recipe, processor, fresh=fresh)
        model.to(accelerator.device)
        core = build_group(recipe.optimizer.core, dict(model.core_named_parameters()))
        animals = animal_groups(model, owned.values(), recipe.optimizer.session)
        gradients = GradientSum(
            processes,
            list(core.parameters.values()),
            {name: next(iter(group.parameters.values())) for name, group in animals.items()},
            sorted({info.animal_id for info in sessions.values()}),
            identity_size=model.config.identity_size,
            n_extra=len(STEP_NUMBERS),
        )
    return PretrainingRun(
        recipe=recipe,
        folder=folder,
        accelerator=accelerator,
        processes=processes,
        model=model,
        sessions=sessions,
        owned=owned,
        masks=masks,
        recordings=recordings,
        evaluation=evaluation,
        windows=windows,
        data=data,
        core=core,
        tables=table_groups(model, owned, recipe.optimizer.session),
        animals=animals,
        gradients=gradients,
        rate=rate,
        last=last,
        identity=run_identity(recipe, sessions, model, accelerator.mixed_precision),
    )


def build_model(recipe: PretrainingRecipe, processor: OmniMouseProcessor) -> OmniMouseModel:
    """Returns the core that a run begins with, without sessions, the same in every process."""
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

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


def _open(
    recipe: PretrainingRecipe,
    owned: Mapping[str, SessionInfo],
    tiers: tuple[str, ...] | Mapping[str, tuple[str, ...]],
    processor: OmniMouseProcessor,
) -> OpenRecordings:
    return OpenRecordings(
        owned,
        tiers,
        stride=recipe.recordings.stride,
        include_blanks=recipe.recordings.include_blanks,
        processor=processor,
        capacity=recipe.loader.open_recordings,
    )


def _choose_masks(recipe: PretrainingRecipe, sessions: Mapping[str, SessionInfo], model: OmniMouseModel) -> CorpusMasks:
    """Finds out which masks each session of the run can serve."""
    config = model.config
    names, weights = recipe.masks.names, recipe.masks.weights
    all_names, all_masks = named_masks(names, config)
    if len(set(all_names)) < len(all_names):
        raise ValueError(f"masks.names lists a mask twice: {', '.join(all_names)}. Use masks.weights instead.")
    choices: dict[tuple[int, tuple[str, ...]], MaskChoice] = {}
    chosen: dict[str, MaskChoice] = {}
    for key, info in sessions.items():
        kind = min(info.n_neurons, config.max_population), info.missing
        if kind not in choices:
            choices[kind] = choose_masks(names, weights, n_neurons=kind[0], config=config, missing=info.missing)
        chosen[key] = choices[kind]
    return CorpusMasks(
        names=tuple(all_names),
        masks=tuple(all_masks),
        weights=tuple(weights or [1.0] * len(all_masks)),
        usable={
            key: frozenset(i for i, name in enumerate(all_names) if name in choice.names)
            for key, choice in chosen.items()
        },
        needs={key: choice.needs for key, choice in chosen.items()},
        left_out={key: len(choice.left_out) for key, choice in chosen.items() if choice.left_out},
        missing={key: info.missing for key, info in sessions.items() if info.missing},
    )


def _make_evaluation(
    recipe: PretrainingRecipe,
    sessions: Mapping[str, SessionInfo],
    keys: Sequence[Sequence[str]],
    rank: int,
    model: OmniMouseModel,
    processor: OmniMouseProcessor,
) -> CorpusEvaluation | None:
    """Chooses what is scored in between; `keys` are the sessions of every process."""
    if recipe.evaluation.every is None:
        return None
    held_out = {key: (tier,) for key, info in sessions.items() if (tier := _held_out_tier(recipe, info))}
    if not held_out:
        tiers = sorted({tier for info in sessions.values() for tier in info.tiers})
        if recipe.evaluation.tier == AUTO:
            return None
        raise ValueError(
            f"No recording has the tier {recipe.evaluation.tier!r} to evaluate on; there are {', '.join(tiers)}. Set "
            "evaluation.tier to one of them, or evaluation.every to null."
        )
    wanted = matching_sessions(held_out, recipe.evaluation.sessions, "evaluation.sessions")
    chosen = [
        _spread([key for key in own if key in held_out], recipe.evaluation.max_sessions)
        if not wanted
        else [key for key in own if key in wanted]
        for own in keys
    ]
    recordings = _open(recipe, {key: sessions[key] for key in keys[rank]}, held_out, processor)
    for key in chosen[rank]:
        with recordings.lend(key):
            pass  # a tier without windows is found out now rather than at the first evaluation
    return CorpusEvaluation(
        recordings,
        chosen[rank],
        [key for own in chosen for key in own],
        {name: as_mask(name, model.config) for name in recipe.evaluation.masks},
        max_windows=recipe.evaluation.max_windows,
        batch_size=recipe.batch_size,
    )


def _held_out_tier(recipe: PretrainingRecipe, info: SessionInfo) -> str | None:
    """The tier that a session is evaluated on in between, None where it has none."""
    named = recipe.evaluation.tier
    candidates = EVALUATION_TIERS if named == AUTO else (named,)
    return next((tier for tier in candidates if tier in info.tiers and tier not in recipe.recordings.tiers), None)


def _spread(keys: list[str], count: int) -> list[str]:
    """Some of the keys, evenly spread."""
    return [keys[i] for i in spread(len(keys), count)]


def _add_sessions(
    model: OmniMouseModel,
    owned: Mapping[str, SessionInfo],
    recipe: PretrainingRecipe,
    processor: OmniMouseProcessor,
    *,
    fresh: bool,
) -> None:
    first = FirstVectors(model, recipe.seed)
    size = model.config.identity_size
    for info in owned.values():
        if fresh:
            tensors = first.tensors(info, recipe.recordings.tiers, processor)
        else:
            tensors = {
                "neuron_embedding": torch.zeros(info.n_neurons, size),
                "neuron_bias": torch.zeros(info.n_neurons),
                "session_embedding": torch.zeros(size),
                "animal_embedding": torch.zeros(size),
            }
        model.sessions.add(session_spec(info, recipe.recordings.tiers), tensors, device="cpu", dtype=torch.float32)


def run_identity(
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
    identity |= {
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "mixed_precision": precision,
        "architecture": architecture(model),
        "start_from": recipe.model.start_from,
    }
    if recipe.recordings.targets == "recorded":
        del identity["recordings.targets"]  # runs begun before there was a choice
    if recipe.model.initialization != "released":
        identity["initialization"] = recipe.model.initialization
    if recipe.schedule.decay_steps:
        identity["steps"] = recipe.steps
    listing = [(key, info.n_neurons, info.animal_id, info.unit_ids_hash) for key, info in sessions.items()]
    identity["sessions"] = (
        f"{len(listing)} with {sum(info.n_neurons for info in sessions.values())} neurons, sha256 "
        f"{hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]}"
    )
    return identity
