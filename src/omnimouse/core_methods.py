"""What a model knows about its core, and what transformers has to know about the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .configuration_omnimouse import OmniMouseConfig
from .files import hash_tensors, write_tensors
from .hub import Source
from .sessions import SessionTables
from .tokens import Identity


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

    def save_core(self, folder: Path, **kwargs: Any) -> None:
        """Writes the configuration and the core's weights, and no session.

        Args:
            folder: Where to.
            **kwargs: As for any transformers model; with any of them (shards, a variant, ...), transformers writes the
                files, which takes twice the memory.
        """
        state = kwargs.pop("state_dict", None)
        if state is None:
            state = self.core_state_dict()
        core = {name: tensor for name, tensor in state.items() if not name.startswith("sessions.")}
        if kwargs or any(tensor.is_meta for tensor in core.values()):
            PreTrainedModel.save_pretrained(self, folder, state_dict=core, **kwargs)
            for path in sorted(folder.glob("*.safetensors")):
                write_tensors(path, load_file(path))
            return
        self.config.dtype = str(self.identity.neuron.weight.dtype).removeprefix("torch.")
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        write_tensors(folder / "model.safetensors", core)
