"""A head start for new neurons: begin each at the known neuron whose predictions resemble its responses.

A core that was trained on many neurons knows what kinds there are. Asked what each known neuron would have done in the
new recording, it gives a prediction that can be compared with every new neuron's responses: the best match is a far
better start for gradient descent than the average neuron, and costs some forward passes.

Shape letters: K known neurons, N new neurons, T samples, E identity size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from omnimouse.evaluation.inputs import Needs
from omnimouse.model.masking.mask_fitting import without_modalities
from omnimouse.model.masking.masks import Mask, as_mask
from omnimouse.model.session_tables.initial_vectors import inverse_softplus
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.support.progress import progress_bar
from omnimouse.support.spreading import spread
from omnimouse.training.shared.data import cut_batch

if TYPE_CHECKING:
    from omnimouse.evaluation.encoded_video.stored_video import StoredVideo
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.recordings import Windows

MATCHING_TASK = "stimulus+behavior"
"""What known neurons are predicted from: nothing of the new neurons, whose vectors are not known yet."""

MAX_WINDOWS, MAX_KNOWN = 128, 2048
_KEY = "neurons-to-match"


@torch.no_grad()
def match_neurons(
    model: OmniMouseNetwork,
    key: str,
    windows: Windows,
    *,
    task: Mask | str = MATCHING_TASK,
    max_windows: int = MAX_WINDOWS,
    batch_size: int = 8,
    stored_video: StoredVideo | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Starts each neuron of a session at the vector of the known neuron that predicts it best.

    Known neurons are those of the other sessions in the model (at most 2,048, evenly spread). Each new neuron takes the
    vector of the one whose predictions correlate best with its responses, and the bias with which these predictions
    have its mean. Session and animal vectors stay as they are.

    Args:
        model: holds the session and at least one other.
        key: the session to start.
        windows: of its recording, from tiers that may be trained on.
        task: what known neurons are predicted from; it hides all responses.
        max_windows: windows to compare on, evenly spread.
        batch_size: windows at a time.
        stored_video: video features on disk, to be used and added to.
        progress: show a progress bar.

    Returns:
        `[N]`, the correlation of each neuron with its match on these windows.

    Raises:
        ValueError: the model holds no other session, the task shows responses, or a window holds NaN or infinity.
    """
    mask = without_modalities(as_mask(task, model.config), windows.missing)
    if mask.prefix_length or not mask.target_length:
        raise ValueError(f"Neurons are matched by a task that predicts responses and shows none, not by {task!r}.")
    known = _known_vectors(model, key)
    indices = spread(len(windows), max_windows)
    was_training = model.training
    model.eval()
    _add_known(model, key, known)
    try:
        batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        bar = progress_bar(batches, desc="matching neurons", unit="batch", shown=progress)
        predictions, responses = _predict_known(model, windows, mask, bar, stored_video)
    finally:
        model.remove_session(_KEY)
        model.train(was_training)
    correlation = _correlate(responses, predictions)  # [N, K]
    best = correlation.argmax(dim=1)
    table = model.sessions.table(key)
    table.neuron_embedding.copy_(known[best])
    beta = model.config.softplus_beta
    drive = inverse_softplus(predictions[:, best], beta) - inverse_softplus(torch.ones(()), beta)
    table.neuron_bias.copy_(_bias_for_mean(drive, responses.mean(0).double(), beta))
    return correlation.gather(1, best[:, None])[:, 0].numpy()


def _known_vectors(model: OmniMouseNetwork, key: str) -> Tensor:
    """Neuron vectors of the other sessions, `[K, E]`."""
    others = [other for other in model.session_keys if other != key]
    if not others:
        raise ValueError(
            "Neurons can only be matched with known ones, but the model holds no other session. Load some, e.g. with "
            'OmniMouseModel.from_pretrained(..., sessions="all").'
        )
    vectors = torch.cat([model.session_state(other)["neuron_embedding"] for other in others])
    return vectors[torch.tensor(spread(len(vectors), MAX_KNOWN))]


def _add_known(model: OmniMouseNetwork, key: str, known: Tensor) -> None:
    """Adds a passing session of known neurons, with the session's own session and animal vectors."""
    state = model.session_state(key)
    bias = inverse_softplus(torch.ones(len(known)), model.config.softplus_beta).float()
    tensors = {**state, "neuron_embedding": known, "neuron_bias": bias}
    spec = SessionSpec(_KEY, len(known), model.session_spec(key).animal_id)
    model.sessions.add_all([(spec, tensors)], device=model.device, on_conflict="model")


def _predict_known(
    model: OmniMouseNetwork,
    windows: Windows,
    mask: Mask,
    batches: Iterable[list[int]],
    stored_video: StoredVideo | None,
) -> tuple[Tensor, Tensor]:
    """Predictions of known neurons `[T, K]` and recorded responses `[T, N]`, float32 on the CPU."""
    predictions, responses = [], []
    rows = slice(mask.target_start, mask.target_start + mask.target_length)
    shown = Needs.of(mask.resolve(model.session_spec(_KEY).n_neurons, model.config)).besides_responses
    for indices in batches:
        # Refuses NaN: it would pass into the biases here, and surface much later as a NaN loss.
        batch = cut_batch(windows, indices, needs=("responses", *shown))
        passed = {name: batch[name].to(model.device) for name in shown}
        if stored_video is not None and "video" in passed:
            passed["video_features"] = stored_video.encode(passed.pop("video"), mask)
        out = model(_KEY, **passed, mask=mask, all_neurons=True)
        predictions.append(out.response_predictions.float().cpu().flatten(0, 1))
        responses.append(batch["responses"][:, rows].flatten(0, 1))
    return torch.cat(predictions), torch.cat(responses)


def _correlate(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of every column of `x [T, N]` with every column of `y [T, K]`; 0 where one is constant."""
    x, y = (part - part.mean(0) for part in (x, y))
    x, y = (part / part.norm(dim=0).clamp_min(1e-6) for part in (x, y))
    return x.T @ y


def _bias_for_mean(drive: Tensor, means: Tensor, beta: float) -> Tensor:
    """Biases `[N]` for which `softplus(drive [T, N] + bias)` has the given means, by bisection in float64."""
    target = means.clamp_min(1e-3)
    center = inverse_softplus(target, beta) - drive.mean(0)
    low, high = center - 100, center + 100
    for _ in range(40):
        middle = (low + high) / 2
        above = torch.nn.functional.softplus(drive + middle, beta=beta).mean(0) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).float()
