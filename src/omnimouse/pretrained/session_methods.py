"""What a model can do with its sessions: add, remove, save and load them."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnimouse.hub.sources import PACKAGED_CORES, PACKAGED_FOLDER, HubOptions, Source, locate
from omnimouse.model.core_identity import core_settings, settings_differences, settings_hash, stored_settings
from omnimouse.model.processing_omnimouse import OmniMouseProcessor, processor_fields
from omnimouse.model.session_names import match_keys
from omnimouse.model.sessions import AnimalConflict, InitialVectors, SessionSpec, hash_unit_ids, inverse_softplus
from omnimouse.pretrained.core_methods import WithCore
from omnimouse.pretrained.session_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterConfig,
    entry_spec,
    is_adapter,
    read_index,
    read_tensors,
    select_sessions,
)
from omnimouse.support.tensor_files import write_tensors
from omnimouse.support.version import __version__


class WithSessions(WithCore):
    """Sessions in memory, and session adapters."""

    @property
    def session_keys(self) -> list[str]:
        """Keys of the sessions in the model, sorted."""
        return self.sessions.keys()

    def session_spec(self, key: str) -> SessionSpec:
        """Neurons, animal and unit ids' hash of a session."""
        return self.sessions.check(key)

    def session_state(self, key: str) -> dict[str, Tensor]:
        """Copies of the four tensors of a session, on the CPU: `neuron_embedding [n, E]`, `neuron_bias [n]`,
        `session_embedding [E]`, `animal_embedding [E]`."""
        return self.sessions.state(key)

    def session_named_parameters(self, key: str | None = None) -> list[tuple[str, nn.Parameter]]:
        """Parameters of one session (its animal's vector included), or of all, by name in the model."""
        if key is None:
            wanted = {id(p) for p in self.sessions.parameters()}
        else:
            wanted = {id(p) for p in self.sessions.table(key).parameters()} | {id(self.sessions.animal(key))}
        return [(name, p) for name, p in self.named_parameters() if id(p) in wanted]

    @torch.no_grad()
    def add_session(
        self,
        recording: Any,
        *,
        n_neurons: int | None = None,
        animal_id: str | None = None,
        mean_responses: Any = None,
        unit_ids: Any = None,
        processor: Any = None,
    ) -> str:
        """Adds a new session.

        Neuron, session and animal vectors start at the mean of those that the core was trained on (the average neuron
        of the average mouse: the best guess before any data was seen, and all neurons then learn their own way). Each
        neuron's bias starts where the readout of an otherwise silent model gives the neuron's mean response, which
        saves the first hundreds of steps. An animal that the model knows keeps its vector.

        Args:
            recording: A recording, or the session's key.
            n_neurons: Neurons, needed with a key.
            animal_id: The animal, needed with a key.
            mean_responses: `[n]` mean of each neuron's standardised responses. With a recording it is computed from
                the train tier; with a key alone, biases start at the response 1 (the mean is unknown).
            unit_ids: `[n]` unit ids, to notice another order of neurons later.
            processor: Cuts the session's windows and standardises its responses, here and whenever it is trained or
                scored; the model's own by default, else profile `"strict"`.

        Returns:
            The session's key.

        Raises:
            ValueError: The session exists, sizes contradict each other, or a key came without sizes.
        """
        if isinstance(recording, str):
            if n_neurons is None or animal_id is None:
                raise ValueError(
                    f"add_session({recording!r}) needs n_neurons and animal_id. To add a recording, open it first: "
                    "model.add_session(open_recording(folder))."
                )
            spec = SessionSpec(recording, int(n_neurons), str(animal_id), hash_unit_ids(unit_ids))
        else:
            spec, mean_responses = self._describe_recording(recording, n_neurons, animal_id, mean_responses, processor)
        means = torch.ones(spec.n_neurons) if mean_responses is None else torch.as_tensor(mean_responses)
        if means.shape != (spec.n_neurons,) or not bool(torch.isfinite(means).all()):
            raise ValueError(
                f"Session {spec.key}: mean_responses should be {spec.n_neurons} finite numbers, one per neuron, got "
                f"shape {tuple(means.shape)}."
            )
        spec = replace(spec, animal_id=self.sessions.known_animal(spec.animal_id))
        neuron, session, animal = self.identity.initial.float().cpu()
        known = self.sessions.animal_vector(spec.animal_id)
        tensors = {
            "neuron_embedding": neuron.repeat(spec.n_neurons, 1),
            "neuron_bias": inverse_softplus(means, self.config.softplus_beta).float(),
            "session_embedding": session.clone(),
            "animal_embedding": animal.clone() if known is None else known,
        }
        self.sessions.add(spec, tensors, device=self.device)
        if processor is not None:
            self.sessions.note_processor(spec.key, processor_fields(processor))
        return spec.key

    def session_processor(self, key: str) -> OmniMouseProcessor:
        """What a session's windows are cut by: the processor it was trained with, else the model's, else `"strict"`.

        Args:
            key: The session; one that the model lacks has no processor of its own.

        Raises:
            ValueError: The processor that is stored with the session is none.
        """
        spec = self.sessions.specs.get(self.sessions.full_key(key))
        if spec is None or spec.processor is None:
            return self.processor or OmniMouseProcessor(profile="strict")
        try:
            return OmniMouseProcessor(**spec.processor)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The processor that is stored with session {spec.key!r} cannot be used: {error}. Copy the adapter or "
                "the model's folder again."
            ) from error

    def _describe_recording(
        self, recording: Any, n_neurons: int | None, animal_id: str | None, means: Any, processor: Any
    ) -> tuple[SessionSpec, Any]:
        from omnimouse.recordings import mean_responses

        if n_neurons is not None and n_neurons != recording.n_neurons:
            raise ValueError(f"n_neurons={n_neurons}, but the recording has {recording.n_neurons} neurons.")
        if means is None:
            means = mean_responses(recording, processor or self.processor or OmniMouseProcessor(profile="strict"))
        spec = SessionSpec(
            recording.session_key,
            recording.n_neurons,
            str(animal_id or recording.animal_id),
            hash_unit_ids(recording.unit_ids),
        )
        return spec, means

    def remove_session(self, key: str) -> None:
        """Removes a session, and its animal's vector when no other session uses it."""
        self.sessions.remove(key)

    @torch.no_grad()
    def update_initial_vectors(self) -> None:
        """Sets the vectors from which new sessions start to the means over the sessions in the model.

        Raises:
            ValueError: The model has no sessions.
        """
        if not self.session_keys:
            raise ValueError("Initial vectors are means over sessions, but the model has none.")
        initial = InitialVectors()
        for key, spec in self.sessions.specs.items():
            initial.add(spec, self.session_state(key))
        initial.put_into(self.identity.initial)

    # Session adapters: one session in a folder of its own.

    def save_session(self, key: str, folder: str | Path, *, dtype: torch.dtype | str | None = None) -> Path:
        """Writes one session as a stand-alone adapter folder (two files; a few kB plus 4 bytes per vector entry).

        Args:
            key: The session; its short key will do.
            folder: Where to; created if needed. An adapter of another session in it is refused.
            dtype: Type to store it in; `"bfloat16"` halves the file and rounds to 3 digits. By default as it is.

        Returns:
            The folder.

        Raises:
            ValueError: No such session, the folder holds something else, or the type is none of floating point.
        """
        folder = Path(folder)
        spec = self.sessions.check(key)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a session adapter is a folder. Choose another name.")
        if (folder / ADAPTER_CONFIG).exists():
            other = AdapterConfig.read(folder).session.key
            if other != spec.key:
                raise ValueError(
                    f"{folder} holds the adapter of session {other!r}. Choose another folder for {spec.key!r}."
                )
        elif (folder / "config.json").exists():
            raise ValueError(f"{folder} holds a model. Save the session adapter to a folder of its own.")
        state, stored_as = self.session_state(spec.key), as_dtype(dtype)
        if stored_as is not None:
            state = {name: tensor.to(stored_as) for name, tensor in state.items()}
        base, commit = (self._source.name, self._source.commit) if self._source else (None, None)
        write_tensors(folder / ADAPTER_WEIGHTS, state)
        settings = core_settings(self.config)
        AdapterConfig(
            spec, base, commit, self.core_hash(), __version__, self.injected_hash(), core_config=settings
        ).write(folder)
        return folder

    def load_session(
        self,
        path_or_repo: str | Path,
        *,
        on_animal_conflict: AnimalConflict = "error",
        force: bool = False,
        **hub_options: Any,
    ) -> str:
        """Loads a session adapter. Its tensors become float32, however they are stored, so that they can be trained.

        Args:
            path_or_repo: A folder written by `save_session`, or a repo pushed by `push_session_to_hub`.
            on_animal_conflict: When the model holds another vector for the session's animal: `"error"`, keep the
                `"model"`'s, or take the `"adapter"`'s for all sessions of the animal.
            force: Load it even if it was trained on another core. Its predictions are then meaningless until it is
                trained again.
            **hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`.

        Returns:
            The session's key.

        Raises:
            ValueError: No adapter there, another core, the session exists, or the animal vectors differ.
            OSError: The Hub does not give it.
        """
        if self._source is not None and not Path(path_or_repo).exists():
            keys = match_keys(str(path_or_repo), read_index(self._source.folder))
            if keys:
                raise ValueError(
                    f"{path_or_repo} is a session of {self._source.name} and no adapter of its own. Load it with "
                    f"model.load_sessions([{str(path_or_repo)!r}])."
                )
        source = locate(path_or_repo, only_hub_options(hub_options))
        return self.load_located_session(source, on_animal_conflict=on_animal_conflict, force=force)

    @torch.no_grad()
    def load_located_session(
        self, source: Source, *, on_animal_conflict: AnimalConflict = "error", force: bool = False
    ) -> str:
        """Loads a session adapter that was located already; otherwise as `load_session`."""
        if not is_adapter(source.folder):
            raise ValueError(
                f"{source.name} is no session adapter: it has no {ADAPTER_CONFIG} of ours. Adapters are written by "
                "model.save_session(key, folder); whole models are opened with OmniMouseModel.from_pretrained."
            )
        config = AdapterConfig.read(source.folder)
        differences = settings_differences(self._adapter_settings(config), core_settings(self.config))
        if not force and differences:
            raise ValueError(
                f"The adapter in {source.name} was trained on a core that computes with other settings: {differences}. "
                "Load the core as it was, without these changes, or pass force=True and finetune again."
            )
        if not force and not self._is_core(config.core_sha256):
            raise ValueError(
                f"The adapter in {source.name} was trained on another core "
                f"({config.base_model or 'a model that was never saved'}, hash {config.core_sha256[:12]}; this one is "
                f"{self.core_hash()[:12]}). Load that core, or pass force=True and finetune again."
            )
        if not force and config.injected_sha256 != self.injected_hash():
            raise ValueError(self._wrong_lora(source.name, config))
        source.fetch([ADAPTER_WEIGHTS])
        tensors = read_tensors(source.folder / ADAPTER_WEIGHTS)
        self.sessions.add(
            config.session, tensors, device=self.device, dtype=torch.float32, on_conflict=on_animal_conflict
        )
        return config.session.key

    def _wrong_lora(self, name: str, config: AdapterConfig) -> str:
        """Says in what a session adapter and this model differ, when they share a core but not what peft added."""
        if config.injected_sha256 is None:
            return (
                f"The adapter in {name} was trained with no LoRA; this model carries one. Load the session before the "
                "LoRA, or pass force=True and finetune again."
            )
        difference = "with another LoRA than this model carries"
        if self.injected_hash() is None:
            difference = "with a LoRA (or another layer of peft), which this model lacks"
        return (
            f"The adapter in {name} was trained {difference}. Load that one first, with "
            "PeftModel.from_pretrained(model, folder), or pass force=True and finetune again."
        )

    def _adapter_settings(self, adapter: AdapterConfig) -> Mapping[str, Any]:
        """What the core of a session adapter computes with, as far as is known; else what this one does.

        Adapters of earlier versions do not say; where the core that they name is at hand, its configuration does.
        """
        if adapter.core_config is not None:
            return adapter.core_config
        base = adapter.base_model or ""
        place = PACKAGED_FOLDER / base if base in PACKAGED_CORES else Path(base)
        named = bool(base) and (place / "config.json").is_file()
        return stored_settings(place) if named else core_settings(self.config)

    def load_sessions(self, sessions: str | Sequence[str] = "all") -> list[str]:
        """Loads more sessions from where the model came from, at the commit it came from.

        Args:
            sessions: `"all"`, or keys, short keys and globs. Those that the model holds already stay as they are.

        Returns:
            Keys of the sessions that were added.

        Raises:
            ValueError: The model was not loaded from anywhere, or there is no such session.
            OSError: The Hub does not give them.
        """
        if self._source is None:
            raise ValueError("The model was not loaded from a folder or repo. Load session adapters with load_session.")
        return self._attach(self._source, sessions, dtype=None)

    @torch.no_grad()
    def _attach(self, source: Source, sessions: str | Sequence[str] | None, *, dtype: torch.dtype | None) -> list[str]:
        """Loads the processor and the wanted sessions of a located model, and returns the sessions' keys."""
        if self.processor is None and (source.folder / "preprocessor_config.json").is_file():
            self.processor = OmniMouseProcessor.from_pretrained(source.folder)
        index = read_index(source.folder)
        keys = [key for key in select_sessions(index, sessions, source.name) if key not in self.sessions.specs]
        if keys:
            self._check_index(source, index, keys)
            source.fetch(glob.escape(index[key]["file"]) for key in keys)
        for key in keys:
            if not (source.folder / index[key]["file"]).is_file():
                raise ValueError(
                    f"{source.name} lists session {key!r}, but {index[key]['file']} is not there and cannot be read. "
                    "Save or push the session again, or leave it out."
                )
        wanted = ((entry_spec(key, index[key]), read_tensors(source.folder / index[key]["file"])) for key in keys)
        self.sessions.add_all(wanted, device=self.device, dtype=dtype)
        return keys

    def _check_index(self, source: Source, index: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Refuses sessions of a model folder that belong to a core which computes otherwise than this one."""
        differences = settings_differences(stored_settings(source.folder), core_settings(self.config))
        ours = settings_hash(core_settings(self.config))
        others = [key for key in keys if index[key].get("core_config_sha256", ours) != ours]
        if differences or others:
            reason = differences or f"config.json is no longer the one that {', '.join(others[:5])} were saved with"
            raise ValueError(
                f"The sessions of {source.name} belong to a core that computes with other settings: {reason}. Load the "
                "core as it was, without these changes, or without its sessions."
            )


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating point type by itself or by name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}; expected a floating point type such as 'float32' or 'bfloat16'.")
    return found


def only_hub_options(kwargs: dict[str, Any]) -> HubOptions:
    options = HubOptions.take(kwargs)
    if kwargs:
        known = ", ".join(HubOptions.__dataclass_fields__)
        raise ValueError(f"Unknown arguments {', '.join(kwargs)}; the options for the Hub are {known}.")
    return options
