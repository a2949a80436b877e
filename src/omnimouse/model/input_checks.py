"""What a forward pass is given: checked, and which neurons and behaviour channels of it take part.

Shape letters: B batch, N neurons of the session, P neurons of the population that a step looks at.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_rules import Mask, video_steps


def check_inputs(
    inputs: Mapping[str, Tensor | None],
    mask: Mask,
    config: OmniMouseConfig,
    *,
    n_neurons: int,
    device: torch.device,
    session: str | None,
) -> int:
    """Refuses inputs of `OmniMouseModel.forward`, by name, that the mask needs and that are missing, or that are
    misshapen or elsewhere than the model's device, and returns the batch size B."""
    needed = {"responses": mask.shows_responses, "video": mask.shows_video, "behavior": mask.encodes_behavior}
    if inputs.get("video_features") is not None:
        needed["video"] = False
        if inputs["video"] is not None or not mask.shows_video:
            raise ValueError(
                "video_features stand for the video of a mask that shows it; pass one of both, or neither."
            )
    first, last = video_steps(mask, config)
    shapes = {
        "video_features": ((last - first) * config.video_tokens_per_step, 2 * config.video_hidden_size),
        "responses": (config.num_response_samples, n_neurons),
        "video": (1, config.num_frames, config.frame_height, config.frame_width),
        "behavior": (len(config.behavior_channels), config.num_behavior_samples),
    }
    batch = None
    for name, value in inputs.items():
        if value is None:
            if needed.get(name):
                raise ValueError(f"The mask shows {name} but {name}=None. Pass {name} or choose another task.")
            continue
        if value.ndim != len(shapes[name]) + 1 or tuple(value.shape[1:]) != shapes[name]:
            expected = ", ".join(map(str, ("B", *shapes[name])))
            raise ValueError(
                ("" if session is None else f"Session {session!r}: ")
                + f"{name} should have shape [{expected}], got {list(value.shape)}."
                + (" Is this the session's own recording?" if name == "responses" else "")
            )
        if value.device != device:
            raise ValueError(
                f"{name} is on {value.device}, the model on {device}; pass {name}.to(model.device), or move the model."
            )
        if batch is not None and value.shape[0] != batch:
            raise ValueError(f"All inputs need the same batch size; {name} has {value.shape[0]}, others {batch}.")
        batch = value.shape[0]
    if batch is None:
        raise ValueError("At least one of responses, video and behavior is needed.")
    return batch


def recorded_channels(
    mask: Mask, behavior: Tensor | None, session: str, known: tuple[int, ...] | None = None
) -> tuple[int, ...] | None:
    """Behaviour channels that are not NaN throughout; `None` for all of them, or where behaviour plays no part.

    Where the caller has them `known`, nobody looks, and so waits for the device.
    """
    if behavior is None or mask.behavior == "absent":
        return None
    if known is None:
        missing = behavior.isnan().all(dim=2).all(dim=0).tolist()
    else:
        missing = [channel not in known for channel in range(behavior.shape[1])]
    if not any(missing):
        return None
    if all(missing) and mask.encodes_behavior:
        raise ValueError(
            f"Session {session!r}: the mask shows behavior, but all of it is NaN. Choose a task without behavior."
        )
    return tuple(channel for channel, is_missing in enumerate(missing) if not is_missing)


def choose_neurons(
    n_neurons: int, batch: int, neuron_ids: Tensor | None, all_neurons: bool, most: int, device: torch.device
) -> Tensor | None:
    """Neurons of each item's population, `[B, P]`: those given, or a random order of at most so many; `None` for all
    of them in the session's order."""
    if neuron_ids is not None:
        if all_neurons:
            raise ValueError("neuron_ids and all_neurons=True exclude each other.")
        if neuron_ids.ndim != 2 or neuron_ids.shape[0] != batch or neuron_ids.shape[1] == 0:
            raise ValueError(f"neuron_ids should have shape [{batch}, P], got {list(neuron_ids.shape)}.")
        if int(neuron_ids.min()) < 0 or int(neuron_ids.max()) >= n_neurons:
            raise ValueError(f"neuron_ids should lie between 0 and {n_neurons - 1}.")
        return neuron_ids.to(device=device, dtype=torch.long, non_blocking=True)
    if all_neurons:
        return None
    return torch.stack([torch.randperm(n_neurons, device=device)[:most] for _ in range(batch)])
