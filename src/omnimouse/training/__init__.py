"""Training: recipes, the data order, the loop, checkpoints, and fine-tuning on one recording."""

from omnimouse.training.finetune import FinetuneResult, finetune
from omnimouse.training.recipe import FinetuneRecipe, OptimizerRecipe, ScheduleRecipe

__all__ = ["FinetuneRecipe", "FinetuneResult", "OptimizerRecipe", "ScheduleRecipe", "finetune"]
