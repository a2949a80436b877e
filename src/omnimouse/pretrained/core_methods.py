"""What a model knows about its core, and what transformers has to know about the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from omnimouse.hub.sources import Source
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.core_identity import core_settings, core_sha256, join_hashes, settings_hash, stored_settings
from omnimouse.model.sessions import SessionTables, without_sessions
from omnimouse.model.tokens import Identity
from omnimouse.pretrained.model_folder import stored_core
from omnimouse.support.tensor_files import hash_tensors, write_tensors

T = TypeVar("T", bound=Tensor)

PEFT_ORIGINALS = ("base_layer", "original_module")
"""Where peft keeps a layer that it put one of its own around."""


class WithCore(PreTrainedModel):
    """The core: all weights that no session or animal owns."""

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
    _source: Source | None

    def core_named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that no session or animal owns, by name; without what peft added."""
        return list(split_injected(without_sessions(dict(self.named_parameters())))[0].items())

    def core_state_dict(self) -> dict[str, Tensor]:
        """Tensors of the core, by name; without what peft added, and as if it had added nothing."""
        return split_injected(without_sessions(self.state_dict()))[0]

    def injected_state_dict(self) -> dict[str, Tensor]:
        """Tensors that peft added to the core (a LoRA), by name; as a rule there are none."""
        return split_injected(without_sessions(self.state_dict()))[1]

    def core_hash(self) -> str:
        """SHA-256 over the core's tensors and the settings it computes with: an adapter fits one core only."""
        return core_sha256(self.core_state_dict(), core_settings(self.config))

    def injected_hash(self) -> str | None:
        """SHA-256 over names, types and bytes of what peft added to the core, or `None`."""
        injected = self.injected_state_dict()
        return hash_tensors(injected) if injected else None

    def core_hashes(self) -> set[str]:
        """`core_hash()`, and the hash that earlier versions knew this core by: that of its tensors alone.

        The latter says nothing of the configuration, so it only counts where that is the one the core came with.
        """
        tensors, settings = hash_tensors(self.core_state_dict()), core_settings(self.config)
        known = {join_hashes(tensors, settings_hash(settings))}
        return known | {tensors} if self._has_settings_of(self._source) else known

    def _has_settings_of(self, source: Source | None) -> bool:
        """Whether the core computes with the settings it has where it came from; true where that cannot be told."""
        if source is None or not (source.folder / "config.json").is_file():
            return True
        return stored_settings(source.folder) == core_settings(self.config)

    def _is_core(self, core_hash: str) -> bool:
        """Whether the core is the one of a hash, perhaps rounded to another type when it was loaded."""
        if core_hash in self.core_hashes():
            return True
        stored = stored_core(self._source.folder) if self._source else {}
        if not self._is_rounded(stored, self._source):
            return False
        kinds = (torch.float32, torch.bfloat16, torch.float16)  # of this core, or of the one the adapter was trained on
        rounded = ({name: tensor.to(kind) for name, tensor in stored.items()} for kind in kinds)
        hashes = (hash_tensors(tensors) for tensors in (stored, *rounded))
        settings = settings_hash(core_settings(self.config))
        return any(core_hash in (tensors, join_hashes(tensors, settings)) for tensors in hashes)

    def _is_rounded(self, stored: Mapping[str, Tensor], source: Source | None) -> bool:
        """Whether the core is the one that a source has stored, in the type in which it was loaded."""
        core = self.core_state_dict()
        same = stored.keys() == core.keys() and all(torch.equal(stored[n].to(core[n]), core[n]) for n in core)
        return same and self._has_settings_of(source)

    def core_has_changed(self) -> bool:
        """Whether the core is no longer the one at the place that it was loaded from or pushed to.

        `False` for a model that was never saved, and where what is stored there cannot be told.
        """
        if self._source is None:
            return False
        if self._source.core_sha256 is not None:
            return self._source.core_sha256 != self.core_hash()
        stored = stored_core(self._source.folder)
        return bool(stored) and not self._is_rounded(stored, self._source)

    def num_core_parameters(self) -> int:
        """Number of parameters of the core."""
        return sum(p.numel() for _, p in self.core_named_parameters())

    def whole_state(self, given: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """All tensors that generic code wants saved, core and sessions: the given ones, else the model's.

        Raises:
            ValueError: The given ones are not those of this model, name by name.
        """
        own = self.state_dict()
        if given is None:
            return own
        lacking, unknown = (sorted(a.keys() - b.keys()) for a, b in ((own, given), (given, own)))
        if lacking or unknown:
            said = [f"{what} {', '.join(names[:4])}{', ...' * (len(names) > 4)} ({len(names)} tensors)" for what, names
                    in (("it lacks", lacking), ("the model has no", unknown)) if names]  # fmt: skip
            raise ValueError(
                f"The state_dict to save is not one of this model: {'; '.join(said)}. Pass all of model.state_dict(), "
                "with values of your own, or remove sessions that are not to be saved (model.remove_session) first."
            )
        return {name: given[name] for name in own}

    def save_weights(self, folder: Path, weights: Mapping[str, Tensor], **kwargs: Any) -> None:
        """Writes the configuration and `model.safetensors`, and no file of a session.

        Args:
            folder: Where to.
            weights: What goes into `model.safetensors`, by name in the model.
            **kwargs: As for any transformers model; with any of them (shards, a variant, ...), transformers writes the
                files, which takes twice the memory.
        """
        if kwargs or any(tensor.is_meta for tensor in weights.values()):
            PreTrainedModel.save_pretrained(self, folder, state_dict=dict(weights), **kwargs)
            for path in sorted(folder.glob("*.safetensors")):
                write_tensors(path, load_file(path))
            return
        self.config.dtype = str(self.identity.neuron.weight.dtype).removeprefix("torch.")
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        write_tensors(folder / "model.safetensors", weights)


def split_injected(tensors: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """Splits named tensors into the model's own, under the names they always had, and those that peft added.

    peft puts a layer of its own around the original, which it keeps as `base_layer` (or `original_module`), with what
    it adds beside it. Going by these names serves all of its methods and works without peft.
    """
    split = {name: name.split(".") for name in tensors}
    wrapped = {tuple(parts[:i]) for parts in split.values() for i, part in enumerate(parts) if part in PEFT_ORIGINALS}
    own, injected = {}, {}
    for name, parts in split.items():
        if any(tuple(parts[:i]) in wrapped and part not in PEFT_ORIGINALS for i, part in enumerate(parts)):
            injected[name] = tensors[name]
        else:
            own[".".join(part for part in parts if part not in PEFT_ORIGINALS)] = tensors[name]
    return own, injected
