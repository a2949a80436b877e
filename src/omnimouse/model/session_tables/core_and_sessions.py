"""What a model holds in memory: a core that all mice share, and sessions, each of one recorded population."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.core_identity import core_settings, core_sha256, join_hashes, split_injected
from omnimouse.model.session_tables.initial_vectors import InitialVectors
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.model.session_tables.session_surgery import SessionTables, without_sessions
from omnimouse.model.tokens import Identity
from omnimouse.support.tensor_files import hash_tensors


class CoreAndSessions(PreTrainedModel):
    """Tells the tensors of the core from those of sessions; `OmniMouseNetwork` computes with both."""

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

    # The core: all weights that no session or animal owns.

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

    def num_core_parameters(self) -> int:
        """Number of parameters of the core."""
        return sum(p.numel() for _, p in self.core_named_parameters())

    # Sessions in memory.

    @property
    def session_keys(self) -> list[str]:
        """Keys of the sessions in the model, sorted."""
        return list(self.sessions.specs)

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


def scored_core(model: CoreAndSessions) -> str:
    """Hash of what a model computes with besides its sessions: its core, and what peft added to it (a LoRA)."""
    injected = model.injected_hash()
    return model.core_hash() if injected is None else join_hashes(model.core_hash(), injected)
