"""Our classes among the Auto classes of transformers, as soon as both packages are imported, in either order.

Each of our modules registers its class at its end; here is what makes sure that it gets there: whoever imports an Auto
class after `import omnimouse` gets ours imported with it, and who did so before has them at once. An import of
`omnimouse` alone, as for `omnimouse --help`, loads neither.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # what type checkers take for True, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

FOLLOWERS = {
    "transformers.models.auto.configuration_auto": "omnimouse.model.configuration_omnimouse",
    "transformers.models.auto.modeling_auto": "omnimouse.pretrained.omnimouse_model",
    "transformers.models.auto.processing_auto": "omnimouse.model.processing_omnimouse",
}
"""Module of an Auto class -> our module that registers a class there."""


class _Finder:
    """Finds nothing itself, but has our module imported when one of `FOLLOWERS` was.

    Where one of ours is half imported (`import omnimouse.model` comes upon the Auto classes), it tries again later.
    """

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def _import(self, name: str) -> None:
        try:
            import_module(name)
        except ImportError:
            if not _half_imported():
                raise
            self.waiting.append(name)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.waiting and not _half_imported():
            self._import(self.waiting.pop())
        if name not in FOLLOWERS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if module.__name__ == name:  # loaders of archives serve many modules
                    self._import(FOLLOWERS[name])

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _half_imported() -> bool:
    """Whether a module of ours is being imported now."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("omnimouse.")]
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in ours)


def follow() -> None:
    """Imports our modules whose Auto class is imported already, and those of the others when these are."""
    present = [name for name in FOLLOWERS if name in sys.modules]
    if len(present) < len(FOLLOWERS):
        sys.meta_path.insert(0, _Finder())  # a finder needs no base class
    for name in present:
        import_module(FOLLOWERS[name])


def register_config(config_class: Any) -> None:
    """Lets `AutoConfig` open the configurations of our folders, and of our cores by name."""
    from transformers import AutoConfig

    def load(name: Any, **kwargs: Any) -> Any:
        from omnimouse.hub.sources import HubOptions
        from omnimouse.pretrained.locating import locate

        return AutoConfig.from_pretrained(locate(name, HubOptions.take(kwargs)).folder, **kwargs)

    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    _know_names(AutoConfig, load)
    _know_names(config_class, load)


def register_model(config_class: Any, model_class: Any) -> None:
    """Lets `AutoModel` open our folders, and our cores by name."""
    from transformers import AutoModel

    AutoModel.register(config_class, model_class, exist_ok=True)
    _know_names(AutoModel, model_class.from_pretrained)


def register_processor(config_class: Any, processor_class: Any) -> None:
    """Lets `AutoProcessor` open our folders, and our cores by name."""
    from transformers import AutoProcessor

    AutoProcessor.register(config_class, processor_class, exist_ok=True)
    _know_names(AutoProcessor, processor_class.from_pretrained)


def _know_names(auto_class: Any, load: Callable[..., Any]) -> None:
    """Gives the names of our cores to `load`: no repo has them, and the library would ask the Hub, or wait for it."""
    from functools import wraps

    theirs = auto_class.from_pretrained.__func__

    @wraps(theirs)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        from omnimouse.hub.sources import is_core_name

        if cls is auto_class and is_core_name(pretrained_model_name_or_path):
            kwargs.pop("trust_remote_code", None)  # no code comes with our cores
            return load(pretrained_model_name_or_path, *args, **kwargs)
        return theirs(cls, pretrained_model_name_or_path, *args, **kwargs)

    auto_class.from_pretrained = classmethod(from_pretrained)
