"""Windows as arguments of the model, for generic training code such as `transformers.Trainer` or a plain `DataLoader`.

Shape letters: B windows of a batch, P neurons drawn (at most `max_population`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import Mask
from omnimouse.recordings import Windows
from omnimouse.training.shared.data import STREAM_MASK, STREAM_NEURONS, choose_masks, draw, shuffled_neurons


class WindowCollator:
    """Makes of windows what `OmniMouseModel.forward` takes: `Trainer(..., data_collator=WindowCollator(...))`.

    Each batch gets a mask that the population can serve, and an order of the neurons for each window. Both are a pure
    function of the seed and the windows in the batch: another batch has another mask, and evaluations of the same
    windows, or a run that is resumed, have the same. (`Trainer.predict` concatenates batches: give it a single mask.)

    Args:
        windows: the windows that will be collated, or others of the same recording.
        config: the model's configuration.
        masks: masks or task names to draw from; default: the 120 training masks.
        mask_weights: weight of each mask; default: equal.
        session: key of the session in the model; default: the key of the recording.
        seed: decides masks and orders.

    Attributes:
        choice: the masks drawn from, and in `choice.left_out` why others cannot serve this recording.

    Raises:
        ValueError: no mask can serve the recording, or weights and masks do not match.
    """

    def __init__(
        self,
        windows: Windows,
        config: OmniMouseConfig,
        *,
        masks: Mask | str | Sequence[Mask | str] | None = None,
        mask_weights: Sequence[float] | None = None,
        session: str | None = None,
        seed: int = 0,
    ):
        recording = windows.recording
        self.session = recording.session_key if session is None else session
        self.n_neurons, self.max_population, self.seed = recording.n_neurons, config.max_population, seed
        population = min(self.n_neurons, self.max_population)
        self.choice = choose_masks(masks, mask_weights, n_neurons=population, config=config, missing=windows.missing)

    def __call__(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
        """Collates B windows.

        Returns:
            `session`, `mask`, `neuron_ids` `[B, P]`, and of `responses`, `video` and `behavior` what any of the
            masks takes in or is compared with.
        """
        key = zlib.crc32(b"".join(item["responses"].numpy().tobytes() for item in items))
        mask = self.choice.masks[draw(self.choice.weights, self.seed, STREAM_MASK, key)]
        order = shuffled_neurons(len(items), self.n_neurons, self.max_population, self.seed, STREAM_NEURONS, key)
        arrays = {name: torch.stack([item[name] for item in items]) for name in self.choice.needs}
        return {"session": self.session, "mask": mask, "neuron_ids": torch.from_numpy(order), **arrays}
