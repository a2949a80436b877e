"""Training: recipes, the data order, the loop, checkpoints, fine-tuning on one recording and pre-training on many."""

from omnimouse.training.annealing import AnnealSchedule, anneal
from omnimouse.training.collation import WindowCollator
from omnimouse.training.finetune import FinetuneResult, finetune
from omnimouse.training.pretraining import PretrainingResult, train
from omnimouse.training.pretraining_recipe import PretrainingRecipe, load_recipe
from omnimouse.training.recipe import FinetuneRecipe, OptimizerRecipe, ScheduleRecipe

__all__ = [
    "AnnealSchedule",
    "FinetuneRecipe",
    "FinetuneResult",
    "OptimizerRecipe",
    "PretrainingRecipe",
    "PretrainingResult",
    "ScheduleRecipe",
    "WindowCollator",
    "anneal",
    "finetune",
    "load_recipe",
    "train",
]
