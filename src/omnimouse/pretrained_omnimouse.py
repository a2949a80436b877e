"""What every OmniMouse model can do besides computing: add, remove, load and save sessions, and whole models."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .configuration_omnimouse import OmniMouseConfig
from .hub import PACKAGED_FOLDER, resolve_name
from .session_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterConfig,
    is_adapter,
    make_readable,
    read_index,
    read_session,
    read_tensors,
    save_sessions,
    select_sessions,
    write_tensors,
)
from .sessions import AnimalConflict, SessionSpec, SessionTables, aligned, hash_unit_ids, inverse_softplus
from .tokens import Identity


class OmniMousePreTrainedModel(PreTrainedModel):
    """Sessions, loading and saving, shared by all OmniMouse models."""

    config: OmniMouseConfig
    config_class = OmniMouseConfig
    base_model_prefix = ""
    main_input_name = "responses"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SelfAttentionBlock", "CrossAttentionBlock", "VideoBlock"]  # noqa: RUF012 (as transformers)
    _keys_to_ignore_on_load_unexpected = [r"^sessions\."]  # noqa: RUF012

    identity: Identity
    sessions: SessionTables
    processor: Any
    _origin: tuple[str, str | None] | None

    # The core.

    def core_named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that no session or animal owns, by name."""
        return [(name, p) for name, p in self.named_parameters() if not name.startswith("sessions.")]

    def core_state_dict(self) -> dict[str, Tensor]:
        """Tensors of the core, by name."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("sessions.")}

    def core_hash(self) -> str:
        """SHA-256 over names, types and bytes of the core's tensors: an adapter fits one core only."""
        return hash_tensors(self.core_state_dict())

    def num_core_parameters(self) -> int:
        """Number of parameters of the core."""
        return sum(p.numel() for _, p in self.core_named_parameters())

    # Sessions in memory.

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
            processor: Standardises the recording's responses; the model's own by default, else profile `"strict"`.

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
        neuron, session, animal = self.identity.initial.float().cpu()
        known = self.sessions.animal_vector(spec.animal_id)
        tensors = {
            "neuron_embedding": neuron.repeat(spec.n_neurons, 1),
            "neuron_bias": inverse_softplus(means, self.config.softplus_beta).float(),
            "session_embedding": session.clone(),
            "animal_embedding": animal.clone() if known is None else known,
        }
        self.sessions.add(spec, tensors, device=self.device)
        return spec.key

    def _describe_recording(
        self, recording: Any, n_neurons: int | None, animal_id: str | None, means: Any, processor: Any
    ) -> tuple[SessionSpec, Any]:
        from .processing_omnimouse import OmniMouseProcessor
        from .recordings import mean_responses

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
        states = [self.session_state(key) for key in self.session_keys]
        rows = (
            torch.cat([state["neuron_embedding"] for state in states]).double().mean(0),
            torch.stack([state["session_embedding"] for state in states]).double().mean(0),
            torch.stack([vector.detach().cpu() for vector in self.sessions.animals.values()]).double().mean(0),
        )
        self.identity.initial.copy_(torch.stack(rows))

    # Session adapters: one session in a folder of its own.

    def save_session(self, key: str, folder: str | Path) -> Path:
        """Writes one session as a stand-alone adapter folder (two files; a few kB plus 4 bytes per vector entry).

        Args:
            key: The session.
            folder: Where to; created if needed. An adapter of another session in it is refused.

        Returns:
            The folder.
        """
        from . import __version__

        folder = Path(folder)
        spec = self.sessions.check(key)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a session adapter is a folder. Choose another name.")
        if (folder / ADAPTER_CONFIG).exists():
            other = AdapterConfig.read(folder).session.key
            if other != key:
                raise ValueError(f"{folder} holds the adapter of session {other!r}. Choose another folder for {key!r}.")
        elif (folder / "config.json").exists():
            raise ValueError(f"{folder} holds a model. Save the session adapter to a folder of its own.")
        base, commit = self._origin or (None, None)
        write_tensors(folder / ADAPTER_WEIGHTS, self.session_state(key))
        AdapterConfig(spec, base, commit, self.core_hash(), __version__).write(folder)
        return folder

    @torch.no_grad()
    def load_session(
        self, folder: str | Path, *, on_animal_conflict: AnimalConflict = "error", force: bool = False
    ) -> str:
        """Loads a session adapter.

        Args:
            folder: A folder written by `save_session`.
            on_animal_conflict: When the model holds another vector for the session's animal: `"error"`, keep the
                `"model"`'s, or take the `"adapter"`'s for all sessions of the animal.
            force: Load it even if it was trained on another core. Its predictions are then meaningless until it is
                trained again.

        Returns:
            The session's key.

        Raises:
            ValueError: No adapter there, another core, the session exists, or the animal vectors differ.
        """
        folder = Path(folder)
        if not (folder / ADAPTER_CONFIG).is_file():
            raise ValueError(
                f"{folder} is no session adapter: it has no {ADAPTER_CONFIG}. Adapters are written by "
                "model.save_session(key, folder); whole models are opened with OmniMouseModel.from_pretrained(folder)."
            )
        config = AdapterConfig.read(folder)
        if not force and config.core_sha256 != self.core_hash():
            raise ValueError(
                f"The adapter in {folder} was trained on another core "
                f"({config.base_model or 'a model that was never saved'}, hash {config.core_sha256[:12]}; this one is "
                f"{self.core_hash()[:12]}). Load that core, with the dtype it was trained in, or pass force=True and "
                "finetune again."
            )
        tensors = read_tensors(folder / ADAPTER_WEIGHTS)
        self.sessions.add(config.session, tensors, device=self.device, on_conflict=on_animal_conflict)
        return config.session.key

    # Whole models.

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what we do not name is passed on
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        sessions: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a core, and the sessions asked for.

        Args:
            pretrained_model_name_or_path: `"omnimouse-tiny"` (ships with the package), a model folder written by
                `save_pretrained`, or a session adapter (then its core is loaded too).
            *args: Passed on to transformers.
            sessions: `None` (the core only), `"all"`, or keys and globs such as `["29515-*"]`.
            **kwargs: As for any transformers model (`dtype`, `device_map`, `revision`, ...).

        Raises:
            ValueError: Nothing of that name, a folder without `config.json`, or a session that is not there.
        """
        name = str(pretrained_model_name_or_path)
        path, kwargs = resolve_name(name, kwargs)
        folder = Path(path)
        if is_adapter(folder):
            adapter = AdapterConfig.read(folder)
            if adapter.base_model is None:
                raise ValueError(f"{folder} does not say which core it belongs to. Load the core, then load_session.")
            try:
                model = cls.from_pretrained(adapter.base_model, *args, sessions=sessions, **kwargs)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"The adapter in {folder} belongs to the core {adapter.base_model!r}, which cannot be loaded "
                    f"({error}) If you have that core elsewhere, load it and call model.load_session({str(folder)!r})."
                ) from error
            model.load_session(folder)
            return model
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} has no config.json, so it is no model folder (found: "
                f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}). Models are written by "
                "model.save_pretrained(folder)."
            )
        if sessions is not None and not folder.is_dir():
            raise ValueError(f"Sessions can be loaded from local model folders only, and {name!r} is none.")
        loaded = super().from_pretrained(path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = aligned(tensor.data)
        packaged = Path(path).parent == PACKAGED_FOLDER
        origin = folder.name if packaged else str(folder.resolve()) if folder.is_dir() else path
        model._origin = (origin, getattr(model.config, "_commit_hash", None))
        if folder.is_dir():
            model._attach(folder, sessions)
            if str(kwargs.get("dtype")) in ("float32", "torch.float32"):
                model.sessions.float()  # asked for full precision; otherwise sessions keep the type they are stored in
        return loaded

    @torch.no_grad()
    def _attach(self, folder: Path, sessions: str | Sequence[str] | None) -> None:
        """Loads the processor and the wanted sessions of a model folder."""
        from .processing_omnimouse import OmniMouseProcessor

        if (folder / "preprocessor_config.json").is_file():
            self.processor = OmniMouseProcessor.from_pretrained(folder)
        index = read_index(folder)
        for key in select_sessions(index, sessions, str(folder)):
            spec, tensors = read_session(folder, key, index[key])
            self.sessions.add(spec, tensors, device=self.device)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes `config.json`, `model.safetensors` (the core), `preprocessor_config.json` and `sessions/`.

        Files are written to a temporary folder first and then put in place. Sessions that the folder already holds for
        the same core stay listed.

        Args:
            save_directory: Where to; created if needed.
            **kwargs: As for any transformers model.

        Raises:
            ValueError: The folder holds sessions of another core, which saving would orphan.
        """
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a model is saved to a folder. Choose another name.")
        push = kwargs.pop("push_to_hub", False)
        if push:
            raise ValueError("Save first, then call model.push_to_hub(...), so that sessions are part of the upload.")
        keep = self._other_sessions(folder)
        kwargs.setdefault("state_dict", self.core_state_dict())
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as name:
            temporary = Path(name)
            super().save_pretrained(temporary, **kwargs)
            if self.processor is not None:
                self.processor.save_pretrained(temporary)
            save_sessions(temporary, self.sessions, keep)
            for source in sorted(temporary.rglob("*"), key=lambda path: path.name == "config.json"):
                if source.is_file():  # config.json last: a folder that has it is complete
                    target = folder / source.relative_to(temporary)
                    target.parent.mkdir(exist_ok=True)
                    make_readable(source)
                    shutil.move(source, target)
        if self._origin is None:
            self._origin = (str(folder.resolve()), None)

    def _other_sessions(self, folder: Path) -> dict[str, Any]:
        """Index entries of a folder's sessions that this model does not hold."""
        others = {key: entry for key, entry in read_index(folder).items() if key not in self.sessions.specs}
        stored = folder / "model.safetensors"
        if not others or not stored.is_file():
            return others
        if hash_tensors(load_file(stored)) != self.core_hash():
            raise ValueError(
                f"{folder} holds sessions of another core ({', '.join(list(others)[:5])}). Saving this core over it "
                "would orphan them. Choose another folder, or delete that one first."
            )
        return others


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in sorted order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
