"""What a model knows about its core, and what transformers has to know about the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .configuration_omnimouse import OmniMouseConfig
from .core_identity import core_settings, core_sha256
from .hub import Source
from .sessions import PREFIX, SessionTables
from .tensor_files import hash_tensors, write_tensors
from .tokens import Identity

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
        return list(split_injected(_without_sessions(self.named_parameters()))[0].items())

    def core_state_dict(self) -> dict[str, Tensor]:
        """Tensors of the core, by name; without what peft added, and as if it had added nothing."""
        return split_injected(_without_sessions(self.state_dict().items()))[0]

    def injected_state_dict(self) -> dict[str, Tensor]:
        """Tensors that peft added to the core (a LoRA), by name; as a rule there are none."""
        return split_injected(_without_sessions(self.state_dict().items()))[1]

    def core_hash(self) -> str:
        """SHA-256 over the core's tensors and the settings it computes with: an adapter fits one core only."""
        return core_sha256(self.core_state_dict(), core_settings(self.config))

    def injected_hash(self) -> str | None:
        """SHA-256 over names, types and bytes of what peft added to the core, or `None`."""
        injected = self.injected_state_dict()
        return hash_tensors(injected) if injected else None

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


def _without_sessions(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    return {name: tensor for name, tensor in named if not name.startswith(PREFIX)}


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
