"""The model that users hold: the network, with what opens, saves and shares it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo
from torch import Tensor

from omnimouse.hub.sources import HubOptions, Source, find
from omnimouse.hub.uploading import UploadOptions
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.processing_omnimouse import OmniMouseProcessor, session_processor
from omnimouse.model.session_tables.session_names import match_keys
from omnimouse.model.session_tables.session_surgery import AnimalConflict
from omnimouse.pretrained.cards.card_writer import CardOptions
from omnimouse.pretrained.model_folder import whole_state, write_model_folder
from omnimouse.pretrained.new_sessions import add_session
from omnimouse.pretrained.opening import Opener, Sessions, attach_sessions
from omnimouse.pretrained.pushing import push_model, push_session
from omnimouse.pretrained.session_adapters import load_adapter, save_adapter
from omnimouse.pretrained.session_files import read_index
from omnimouse.pretrained.stored_core import core_has_changed, core_hashes
from omnimouse.recordings.recording import Recording
from omnimouse.support.compute_devices import Device, resolve_device


class OmniMouseModel(OmniMouseNetwork):
    __doc__ = OmniMouseNetwork.__doc__
    __module__ = "omnimouse"  # which a LoRA stores, so that peft finds the class wherever its file goes

    def __init__(self, config: OmniMouseConfig):
        super().__init__(config)
        self._source: Source | None = None

    def __repr__(self) -> str:
        size, layers = self.config.hidden_size, self.config.num_fusion_layers
        core = f"core: {self.num_core_parameters():,} parameters, hidden size {size}, {layers} fusion layers"
        return f"{type(self).__name__}({core}; {self.sessions!r})"

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what we do not name is passed on
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        sessions: Sessions = None,
        device: Device = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a core, and the sessions asked for. Only the files of these are read, or fetched.

        Args:
            pretrained_model_name_or_path: `"omnimouse-tiny"` (ships with the package); one of the authors' cores,
                `"omnimouse-1m"`, `"-5m"`, `"-20m"`, `"-80m"`, `"-300m"`; a model folder written by `save_pretrained`,
                or a repo pushed by `push_to_hub`; a folder or repo of published rank files, which is converted on
                first use; or a session adapter (then its core is loaded too).
            *args: Passed on to transformers.
            sessions: `None` (the core only), `"all"`, or keys, short keys and globs such as `["29515-*"]`;
                `omnimouse.session_keys(name)` lists them. They keep the type they are stored in, unless
                `dtype=torch.float32` is asked for.
            device: Where to put the model: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"` or a `torch.device`; by default it is
                on the CPU, or where `device_map` says.
            **kwargs: As for any transformers model (`revision`, `token`, `cache_dir`, `local_files_only`, `dtype`,
                `device_map`, `attn_implementation`, ...).

        Raises:
            ValueError: Nothing of that name, a folder without `config.json`, a session or a device that is not there.
            OSError: The Hub has no such repo or revision, does not give it to this token, or cannot be reached.
        """
        place = None if device is None else resolve_device(device)
        if place is not None and kwargs.get("device_map") is not None:
            raise ValueError("device and device_map both say where the model goes; leave one of them out.")
        kwargs.pop("_commit_hash", None)
        options = HubOptions.take(kwargs)
        opened = Opener(super().from_pretrained, args, kwargs).open(pretrained_model_name_or_path, options, sessions)
        model = opened.model
        assert isinstance(model, cls)
        model._source = opened.source
        if place is not None:
            model.to(place)  # type: ignore[arg-type]  # the library hides its signature
        return opened.loaded

    def save_pretrained(  # type: ignore[override]  # what we do not name is passed on
        self,
        save_directory: str | Path,
        *,
        sessions: str | Sequence[str] = "all",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes `config.json`, `model.safetensors` (the core), `preprocessor_config.json`, `sessions/` and a card.

        Files are written to a temporary folder first and then put in place. Sessions that the folder already holds for
        the same core stay listed.

        Args:
            save_directory: Where to; created if needed.
            sessions: Which of the model's sessions to write: `"all"`, or keys, short keys and globs.
            push_to_hub: Push as well; `repo_id` and the options of `push_to_hub` may then be given.
            **kwargs: As for any transformers model; and for the card, `scores` (what `evaluate` returned; scores of
                other weights than these are refused), `training`, `training_data`, `license` and `tags`. With
                `state_dict` (averaged weights, say, or `None` for the model's own), as `transformers.Trainer` and
                scripts of Accelerate call it, `model.safetensors` holds the sessions' tables too: such code takes that
                file for the whole state.

        Raises:
            ValueError: A session is not in the model, the folder holds sessions of another core, which saving would
                orphan, scores are those of other weights, or a `state_dict` is not one of this model.
        """
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a model is saved to a folder. Choose another name.")
        upload = {name: kwargs.pop(name) for name in ("repo_id", *UploadOptions.__dataclass_fields__) if name in kwargs}
        card = {name: kwargs.pop(name) for name in CardOptions.__dataclass_fields__ if name in kwargs}
        if not kwargs.pop("is_main_process", True):
            return
        if "state_dict" in kwargs:
            kwargs["state"] = whole_state(self, kwargs.pop("state_dict"))
        write_model_folder(self, folder, source=self._source, sessions=sessions, card=CardOptions(**card), **kwargs)
        if self._source is None:
            self._source = Source(str(folder.resolve()), folder.resolve())
        if push_to_hub:
            self.push_to_hub(upload.pop("repo_id", folder.resolve().name), sessions=sessions, **card, **upload)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        sessions: str | Sequence[str] = "all",
        prune: bool = False,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Pushes the model to the Hub: core, chosen sessions, processor and card, in one commit.

        Sessions of the same core that the repo holds already stay. An upload that was interrupted, when called again,
        sends only what is missing.

        Args:
            repo_id: The repo, `"user/name"` or `"name"`; created if it does not exist.
            sessions: Which of the model's sessions to push: `"all"`, or keys, short keys and globs.
            prune: Delete the repo's other sessions (they stay in its history).
            max_shard_size: As for any transformers model; by default the core is one file.
            **options: How to push: `private`, `token`, `revision` (a branch, made if it does not exist), `create_pr`,
                `commit_message`, `commit_description`. For the card: `scores` (what `evaluate` returned; scores of
                other weights than these are refused), `training`, `training_data`, `license`, `tags`.

        Returns:
            The commit; as a string, its address (`.pr_url` is that of the pull request).

        Raises:
            ValueError: A session is not in the model, or the repo holds sessions of another core, or an adapter.
            OSError: The Hub refuses, cannot be reached, or the repo was changed meanwhile.
        """
        commit, self._source = push_model(self, self._source, repo_id, sessions, prune, max_shard_size, options)
        return commit

    # Sessions.

    @torch.no_grad()
    def add_session(
        self,
        recording: Recording | str,
        *,
        n_neurons: int | None = None,
        animal_id: str | None = None,
        mean_responses: Tensor | np.ndarray | Sequence[float] | None = None,
        unit_ids: np.ndarray | Sequence[int] | None = None,
        processor: OmniMouseProcessor | None = None,
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
        return add_session(self, recording, n_neurons, animal_id, mean_responses, unit_ids, processor)

    def session_processor(self, key: str) -> OmniMouseProcessor:
        """What a session's windows are cut by: the processor it was trained with, else the model's, else `"strict"`.

        Args:
            key: The session; one that the model lacks has no processor of its own.

        Raises:
            ValueError: The processor that is stored with the session is none.
        """
        return session_processor(self.sessions, key, self.processor)

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
        return attach_sessions(self, self._source, sessions, dtype=None)

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
        save_adapter(self, self._source, key, Path(folder), dtype)
        return Path(folder)

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
        adapter = find(path_or_repo, HubOptions.only(hub_options))
        return load_adapter(self, self._source, adapter, on_animal_conflict=on_animal_conflict, force=force)

    def push_session_to_hub(
        self,
        key: str,
        repo_id: str,
        *,
        base_model: str | None = None,
        dtype: torch.dtype | str | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Pushes one session adapter to a repo of its own, with a card.

        Args:
            key: The session; its short key will do.
            repo_id: The repo, `"user/name"` or `"name"`; created if it does not exist.
            base_model: Repo of the core that the session was trained on. Needed when the core was loaded from a folder,
                which nobody else has.
            dtype: Type to store it in, as for `save_session`.
            **options: As for `push_to_hub`.

        Returns:
            The commit; as a string, its address.

        Raises:
            ValueError: No such session, no base model that others could load, or the repo holds something else.
            OSError: The Hub refuses, cannot be reached, or the repo was changed meanwhile.
        """
        return push_session(self, self._source, key, repo_id, base_model=base_model, dtype=dtype, options=options)

    # What is known of the core.

    def core_hashes(self) -> set[str]:
        """`core_hash()`, and the hash that earlier versions knew this core by."""
        return core_hashes(self, self._source)

    def core_has_changed(self) -> bool:
        """Whether the core is no longer the one at the place that it was loaded from or pushed to.

        `False` for a model that was never saved, and where what is stored there cannot be told.
        """
        return core_has_changed(self, self._source)
