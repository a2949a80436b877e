"""Training: recipes, the data order, the loop, checkpoints, fine-tuning on one recording and pre-training on many."""

from omnimouse.training.finetuning.finetune import FinetuneResult, finetune
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.pretraining.annealing import AnnealSchedule, anneal
from omnimouse.training.pretraining.pretraining_recipe import PretrainingRecipe, load_recipe
from omnimouse.training.pretraining.train import PretrainingResult, train
from omnimouse.training.shared.collation import WindowCollator
from omnimouse.training.shared.recipe import OptimizerRecipe, ScheduleRecipe

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
