"""Video features by what they depend on: the frames of a window, the video encoder, what a mask shows, and how it is
computed."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnimouse.evaluation.encoded_video.feature_files import FeatureFiles
from omnimouse.model.core_identity import core_settings, split_injected
from omnimouse.support.compute_devices import autocast_type
from omnimouse.support.tensor_files import hash_tensors

if TYPE_CHECKING:
    from omnimouse.evaluation.inputs import Batch
    from omnimouse.model.masking.masks import Mask
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork


@dataclass(frozen=True)
class StoredVideo:
    """`model.encode_video`, but for windows whose features lie on disk.

    On a CPU they are the same to the last bit; a GPU may round products otherwise in a batch of another size.

    Attributes:
        model: its video encoder must not change meanwhile.
        encoder: hash of the video encoder, and of the settings of its core.
        files: where features are stored.
    """

    model: OmniMouseNetwork
    encoder: str
    files: FeatureFiles

    @classmethod
    def of(cls, model: OmniMouseNetwork) -> StoredVideo:
        """With the features in the cache of this package.

        Raises:
            ValueError: peft changed the video encoder, in ways that its tensors do not tell; see `FeatureFiles`.
        """
        tensors = model.video_encoder.state_dict()
        if split_injected(tensors)[1]:
            raise ValueError(
                "cache_video=True stores features by the tensors of the video encoder, but what peft put into it "
                "computes with more than these. Merge them first (model.merge_and_unload()), or pass cache_video=False."
            )
        settings = json.dumps(core_settings(model.config), sort_keys=True)
        return cls(model, f"{hash_tensors(tensors)} {settings}", FeatureFiles())

    def source(self, model: OmniMouseNetwork, batch: Batch, rows: Tensor, mask: Mask) -> Tensor:
        """Features of some windows of a batch, as `evaluation.inputs.VideoSource`."""
        return self.encode(batch.arrays["video"][rows], mask)

    @torch.no_grad()
    def encode(self, video: Tensor, mask: Mask) -> Tensor:
        """Features of windows `[B, 1, frames, height, width]`, on the device of the model."""
        assert not self.model.training  # stochastic depth would make features random
        device, folder = self.model.device, self._folder(mask)
        names = [f"{folder}/{hashlib.sha256(window.cpu().contiguous().numpy()).hexdigest()}" for window in video]
        found = {name: self.files.read(name) for name in names}
        missing = [row for row, name in enumerate(names) if found[name] is None]
        if missing:
            computed = self.model.encode_video(video[missing].to(device), mask)
            for row, features in zip(missing, computed, strict=True):
                self.files.write(names[row], features)
                found[names[row]] = features
        return torch.stack([features.to(device) for name in names if (features := found[name]) is not None])

    def _folder(self, mask: Mask) -> str:
        """A name in which everything but the frames counts; the last digits depend on machine and version too."""
        kind, weight = self.model.device.type, self.model.video_projection.weight.dtype
        on_gpu = torch.cuda.get_device_name(self.model.device) if kind == "cuda" else ""
        facts = (
            self.encoder, mask.frames_start, mask.n_frames, str(weight), torch.__version__, kind,
            str(autocast_type(kind) or ""), platform.machine(),
            on_gpu or torch.backends.cpu.get_cpu_capability(), torch.get_float32_matmul_precision(),
        )  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
