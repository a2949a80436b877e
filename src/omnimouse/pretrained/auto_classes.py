"""Our classes among the Auto classes of transformers, as soon as both packages are imported, in either order.

Whoever imports an Auto class after `import omnimouse` gets ours registered with it, and who did so before has them at
once. An import of `omnimouse` alone, as for `omnimouse --help`, loads neither; hence the imports inside functions.
"""

from __future__ import annotations

import sys
from functools import wraps

TYPE_CHECKING = False  # what type checkers take for True, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from omnimouse.model.configuration_omnimouse import OmniMouseConfig


def _register_config() -> None:
    """Lets `AutoConfig` open the configurations of our folders, and of our cores by name."""
    from transformers import AutoConfig

    from omnimouse.model.configuration_omnimouse import OmniMouseConfig

    def load(name: str, **kwargs: Any) -> OmniMouseConfig:
        from omnimouse.pretrained.source_kinds import load_architecture

        return load_architecture(name, **kwargs)

    AutoConfig.register(OmniMouseConfig.model_type, OmniMouseConfig, exist_ok=True)
    _know_names(AutoConfig, load)
    _know_names(OmniMouseConfig, load)


def _register_model() -> None:
    """Lets `AutoModel` open our folders, and our cores by name."""
    from transformers import AutoModel

    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

    AutoModel.register(OmniMouseModel.config_class, OmniMouseModel, exist_ok=True)
    _know_names(AutoModel, OmniMouseModel.from_pretrained)


def _register_processor() -> None:
    """Lets `AutoProcessor` open our folders, and our cores by name."""
    from transformers import AutoProcessor

    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor

    AutoProcessor.register(OmniMouseConfig, OmniMouseProcessor, exist_ok=True)
    _know_names(AutoProcessor, OmniMouseProcessor.from_pretrained)


def _know_names(auto_class: Any, load: Callable[..., Any]) -> None:
    """Gives the names of our cores to `load`: no repo has them, and the library would ask the Hub, or wait for it."""
    theirs = auto_class.from_pretrained.__func__

    @wraps(theirs)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        from omnimouse.hub.names import is_core_name

        if cls is auto_class and is_core_name(pretrained_model_name_or_path):
            kwargs.pop("trust_remote_code", None)  # no code comes with our cores
            return load(pretrained_model_name_or_path, *args, **kwargs)
        return theirs(cls, pretrained_model_name_or_path, *args, **kwargs)

    auto_class.from_pretrained = classmethod(from_pretrained)


FOLLOWERS = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
    "transformers.models.auto.processing_auto": _register_processor,
}
"""Module of an Auto class -> what registers ours there."""


class _Finder:
    """Finds nothing itself, but has our classes registered when a module of `FOLLOWERS` was imported.

    Where one of our modules is half imported then (it came upon the Auto class itself), that waits for its end.
    """

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in FOLLOWERS and not name.startswith("omnimouse."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if module.__name__ == name:  # loaders of archives serve many modules
                    self._imported(name)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _imported(self, name: str) -> None:
        if name in FOLLOWERS:
            self.waiting.append(FOLLOWERS[name])
        while self.waiting and not _half_imported(besides=name):
            self.waiting.pop(0)()


def _half_imported(besides: str) -> bool:
    """Whether a module of ours is being imported now, besides one that has just come to its end."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("omnimouse.") and name != besides]
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in ours)


def follow() -> None:
    """Registers our classes with the Auto classes that are imported already, and with the others when these are."""
    present = [name for name in FOLLOWERS if name in sys.modules]
    if len(present) < len(FOLLOWERS):
        sys.meta_path.insert(0, _Finder())  # a finder needs no base class
    for name in present:
        FOLLOWERS[name]()
