"""Plans of windows that were worked out, kept for the next window of the same shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_rules import ResolvedMask
from omnimouse.model.tokens import WindowPlan, plan_window


class PlanCache:
    """Keeps the most recently used plans. Copying or pickling a model starts an empty cache."""

    def __init__(self, size: int = 160):  # a plan of 8,000 neurons holds about 20 MB of rotary tables
        self.size = size
        self._plans: OrderedDict[Hashable, WindowPlan] = OrderedDict()

    def get(
        self,
        mask: ResolvedMask,
        config: OmniMouseConfig,
        device: torch.device,
        channels: tuple[int, ...] | None = None,
    ) -> WindowPlan:
        """Returns the plan of a mask on a device, see `plan_window`, computing it at first use."""
        key = (mask, str(device), channels)
        if key not in self._plans:
            with torch.inference_mode(False):  # tensors made in inference mode could not serve training later
                self._plans[key] = plan_window(mask, config, device, channels)
            if len(self._plans) > self.size:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def __len__(self) -> int:
        return len(self._plans)

    def __reduce__(self) -> tuple[type[PlanCache], tuple[int]]:
        return PlanCache, (self.size,)
