"""Video in a fine-tune: encoded once for all masks that show the same frames, and kept where the core is frozen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor

from omnimouse.evaluation.encoded_video.feature_files import LIMIT_VARIABLE
from omnimouse.evaluation.encoded_video.stored_video import StoredVideo
from omnimouse.model.masking.masks import Mask
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.shared.accelerators import OneDevice

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork

MOST_KEPT = 2**29
"""Bytes of features of validation windows that are kept in memory: 32 windows of the largest core take a quarter."""

Arrays = Mapping[str, Tensor]


@dataclass
class RunVideo:
    """Where a run takes video features from.

    Attributes:
        model: on the accelerator's device.
        accelerator: device and precision.
        is_frozen: whether the features of a window stay the same over the run.
        stored: features on disk, None where none are stored.
        stores_training: whether those of training windows are stored too.
    """

    model: OmniMouseNetwork
    accelerator: Accelerator | OneDevice
    is_frozen: bool
    stored: StoredVideo | None = None
    stores_training: bool = False
    _kept: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    _last: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def training_batch(self, batch: Arrays, mask: Mask) -> Arrays:
        """A batch of training windows, with features in place of video where they are stored."""
        if not (self.stores_training and mask.shows_video):
            return batch
        return _with_features(batch, self._encode(batch["video"], mask))

    def new_validation(self) -> None:
        """Forgets what may have changed since the last one."""
        self._last.clear()

    def validation_batch(self, batch: Arrays, mask: Mask, place: int) -> Arrays:
        """A batch of validation windows, the same ones every time at its place, with features in place of video."""
        if not mask.shows_video:
            return batch
        shown = (place, mask.frames_start, mask.n_frames)
        features = self._kept.get(shown, self._last.get(shown))
        if features is None:
            features = self._encode(batch["video"], mask)
            has_room = sum(kept.nbytes for kept in self._kept.values()) + features.nbytes <= MOST_KEPT
            if self.is_frozen and has_room:
                self._kept[shown] = features
            else:
                self._last = {shown: features}
        return _with_features(batch, features)

    @torch.no_grad()
    def _encode(self, video: Tensor, mask: Mask) -> Tensor:
        with self.accelerator.autocast():
            if self.stored is not None:
                return self.stored.encode(video, mask)
            return self.model.encode_video(video.to(self.accelerator.device), mask)


def _with_features(batch: Arrays, features: Tensor) -> Arrays:
    return {**{name: array for name, array in batch.items() if name != "video"}, "video_features": features}


def training_fits(
    stored: StoredVideo, recipe: FinetuneRecipe, masks: tuple[Mask, ...], n_windows: int, config: OmniMouseConfig
) -> bool:
    """Whether the features of all training windows that a run draws have room on disk.

    Warns:
        UserWarning: they have none.
    """
    frames = {(mask.frames_start, mask.n_frames) for mask in masks if mask.shows_video}
    steps = config.video_patch_grid[0]
    each = steps * config.video_tokens_per_step * 2 * config.video_hidden_size * 4
    count = min(recipe.steps * recipe.batch_size, n_windows * len(frames))
    if count * each <= stored.files.limit:
        return True
    warnings.warn(
        f"The video features of the {count} training windows of this run would take {count * each / 1e9:.0f} GB, more "
        f"than the {stored.files.limit / 1e9:g} GB that {LIMIT_VARIABLE} allows. Those of validation are stored and "
        "those of training computed; raise the limit, or train on fewer windows (stride=30).",
        stacklevel=5,
    )
    return False
