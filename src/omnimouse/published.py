"""Models from the weights that the authors of OmniMouse published."""

from omnimouse.pretrained.published.models import load_checkpoint, model_from_state_dict

__all__ = ["load_checkpoint", "model_from_state_dict"]
