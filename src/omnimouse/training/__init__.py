"""Training: recipes, the data order, the loop, checkpoints, fine-tuning on one recording and pre-training on many."""

from __future__ import annotations

from omnimouse.support.lazy_names import lazy_names

TYPE_CHECKING = False  # what type checkers take for True, without importing typing
if TYPE_CHECKING:
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

# Loaded when first used: the recipe of a fine-tune, which the shell reads for its options, needs no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "finetuning.finetune": "FinetuneResult finetune",
        "finetuning.finetune_recipe": "FinetuneRecipe",
        "pretraining.annealing": "AnnealSchedule anneal",
        "pretraining.pretraining_recipe": "PretrainingRecipe load_recipe",
        "pretraining.train": "PretrainingResult train",
        "shared.collation": "WindowCollator",
        "shared.recipe": "OptimizerRecipe ScheduleRecipe",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
