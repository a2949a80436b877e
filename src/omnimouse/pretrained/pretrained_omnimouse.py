"""What every OmniMouse model can do besides computing: add, remove, load and save sessions, and whole models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omnimouse.hub.sources import HubOptions, Source, find, locate
from omnimouse.model.sessions import aligned
from omnimouse.pretrained.cards.writer import CardOptions
from omnimouse.pretrained.model_folder import core_weight_files, core_weight_patterns, write_model_folder
from omnimouse.pretrained.published.checkpoint_files import FIRST_RANK, read_rank
from omnimouse.pretrained.published.conversion import cached_copy
from omnimouse.pretrained.session_files import ADAPTER_CONFIG, AdapterConfig, is_adapter, read_index, select_sessions
from omnimouse.pretrained.session_methods import only_hub_options
from omnimouse.pretrained.sharing import UploadOptions, WithSharing
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.files import read_mapping


class OmniMousePreTrainedModel(WithSharing):
    """Loading and saving whole models, shared by all OmniMouse models."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what we do not name is passed on
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        sessions: str | Sequence[str] | None = None,
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
        if device is not None:
            place = resolve_device(device)
            if kwargs.get("device_map") is not None:
                raise ValueError("device and device_map both say where the model goes; leave one of them out.")
            loaded = cls.from_pretrained(pretrained_model_name_or_path, *args, sessions=sessions, **kwargs)
            (loaded[0] if isinstance(loaded, tuple) else loaded).to(place)
            return loaded
        kwargs.pop("_commit_hash", None)
        options = HubOptions.take(kwargs)
        source = locate(pretrained_model_name_or_path, options)
        if is_adapter(source.folder):
            return cls._with_adapter(source, options, *args, sessions=sessions, **kwargs)
        if (source.folder / ADAPTER_CONFIG).is_file() and not (source.folder / "config.json").is_file():
            return cls._with_lora(source, options, *args, sessions=sessions, **kwargs)
        _check_model_folder(source)
        if source.is_packaged and kwargs.get("torch_dtype") is None:
            kwargs.setdefault("dtype", torch.float32)  # stored as bfloat16 to be small
        source.fetch(core_weight_patterns(kwargs.get("variant")))
        _check_weights(source, kwargs.get("variant"))
        loaded = super().from_pretrained(str(source.folder), *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = aligned(tensor.data)
        model._source = source
        model.config._name_or_path = model.name_or_path = source.name  # what adapters of peft name as their base
        model._attach(source, sessions, dtype=_session_dtype(source, kwargs))
        return loaded

    @classmethod
    def _with_adapter(
        cls, source: Source, options: HubOptions, *args: Any, sessions: str | Sequence[str] | None, **kwargs: Any
    ) -> Any:
        """Loads the core that a session adapter names, then the adapter, then other sessions of that core."""
        adapter = AdapterConfig.read(source.folder)
        if adapter.base_model is None:
            raise ValueError(f"{source.name} does not say which core it belongs to. Load the core, then load_session.")
        try:
            loaded = cls.from_pretrained(
                adapter.base_model, *args, revision=adapter.base_commit, **options.reach, **kwargs
            )
        except (ValueError, OSError) as error:
            raise ValueError(
                f"The adapter in {source.name} belongs to the core {adapter.base_model!r}, which cannot be loaded "
                f"({error}) If you have that core elsewhere, load it and call model.load_session({source.name!r})."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        key = model.load_located_session(source)
        wanted = select_sessions({key, *read_index(model._source.folder)}, sessions, source.name)
        others = [other for other in wanted if other != key]
        model._attach(model._source, others, dtype=_session_dtype(model._source, kwargs))
        return loaded

    @classmethod
    def _with_lora(cls, source: Source, options: HubOptions, *args: Any, **kwargs: Any) -> Any:
        """Loads the core that an adapter of peft names, then the adapter."""
        content = read_mapping(source.folder / ADAPTER_CONFIG, "an adapter's configuration")
        base = content.get("base_model_name_or_path")
        if not base:
            raise ValueError(
                f"{source.name} does not say which core it belongs to. Load the core, then "
                f"PeftModel.from_pretrained(model, {source.name!r})."
            )
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ValueError(
                f"{source.name} holds an adapter of peft. Install it: pip install 'omnimouse[peft]'."
            ) from error
        loaded = cls.from_pretrained(base, *args, **options.reach, **kwargs)
        source.fetch(["adapter_model.safetensors"])
        # Not load_adapter of transformers: with peft 0.19 it finds no tensor, leaves the LoRA random, and goes on.
        PeftModel.from_pretrained(loaded[0] if isinstance(loaded, tuple) else loaded, source.folder)
        return loaded

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
        is_main_process = kwargs.pop("is_main_process", True)
        if is_main_process:
            if "state_dict" in kwargs:
                kwargs["state"] = self.whole_state(kwargs.pop("state_dict"))
            write_model_folder(self, folder, sessions=sessions, card=CardOptions(**card), **kwargs)
            if self._source is None:
                self._source = Source(str(folder.resolve()), folder.resolve())
        if push_to_hub and is_main_process:
            self.push_to_hub(upload.pop("repo_id", folder.resolve().name), sessions=sessions, **card, **upload)


def session_keys(name_or_path: str | Path, **hub_options: Any) -> list[str]:
    """Lists the sessions that come with a model, sorted, without loading any.

    Args:
        name_or_path: What `OmniMouseModel.from_pretrained` takes. Of a published checkpoint on the Hub, the first rank
            file is fetched, which lists all sessions.
        **hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`.

    Raises:
        ValueError: Nothing of that name, or no model.
        OSError: The Hub does not give it.
    """
    options = only_hub_options(hub_options)
    found = find(name_or_path, options)
    if found.options is not None and not found.is_stored_model and cached_copy(found) is None:
        found.fetch([FIRST_RANK])
        if (found.folder / FIRST_RANK).is_file():
            return sorted(read_rank(found.folder / FIRST_RANK)[1])
    source = locate(name_or_path, options)
    if is_adapter(source.folder):
        return [AdapterConfig.read(source.folder).session.key]
    _check_model_folder(source)
    return sorted(read_index(source.folder))


def _session_dtype(source: Source, kwargs: dict[str, Any]) -> torch.dtype | None:
    """The type that sessions are loaded in: float32 if the core is asked for in it, else the one they are stored in."""
    asked = kwargs.get("dtype", kwargs.get("torch_dtype", torch.float32 if source.is_packaged else None))
    return torch.float32 if str(asked).endswith("float32") else None


def _check_model_folder(source: Source) -> None:
    if any((source.folder / device).is_dir() for device in ("responses", "screen", "data/videos", "data/images")):
        raise ValueError(f"{source.name} is a recording and no model. Recordings are opened with open_recording.")
    if not (source.folder / "config.json").is_file():
        if is_adapter(source.folder / "adapter"):
            raise ValueError(f"{source.name} is no model folder; the session adapter is {source.name}/adapter.")
        found = sorted(path.name for path in source.folder.iterdir())[:8] if source.folder.is_dir() else []
        raise ValueError(
            f"{source.name} has no config.json, so it is no model folder (found: {', '.join(found) or 'nothing'}). "
            "Models are written by model.save_pretrained(folder)."
        )
    read_mapping(source.folder / "config.json", "the architecture of a model")


def _check_weights(source: Source, variant: str | None) -> None:
    if not core_weight_files((path.name for path in source.folder.iterdir()), variant):
        raise ValueError(
            f"{source.name} has a config.json but no weights ({core_weight_patterns(variant)[0]}). Copy or push the "
            "whole model again."
        )
