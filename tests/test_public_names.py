"""The face of the package: names loaded when they are used, and Auto classes of transformers that know ours."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoProcessor

import omnimouse
from omnimouse import OmniMouseConfig, OmniMouseModel, OmniMouseProcessor
from omnimouse.hub import names as hub

MODULES = {name: module for module, names in omnimouse._PLACES.items() for name in names.split()}
HEAVY = ("torch", "transformers", "numpy", "huggingface_hub", "safetensors", "yaml")
TINY = hub.PACKAGED_FOLDER / "omnimouse-tiny"


def python(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_library():
    code = f"import sys, omnimouse; print([name for name in {HEAVY} if name in sys.modules], omnimouse.__version__)"
    assert python(code) == f"[] {omnimouse.__version__}\n"


def test_every_public_name_is_there_and_none_is_a_module():
    assert set(MODULES) == set(omnimouse.__all__)
    assert set(omnimouse.__all__) <= set(dir(omnimouse))
    modules = {module.name for module in pkgutil.iter_modules(omnimouse.__path__)}
    assert not modules & set(omnimouse.__all__), "an import of the module would hide the name"
    for name, module in MODULES.items():
        assert getattr(omnimouse, name) is getattr(importlib.import_module(f"omnimouse.{module}"), name)
    assert omnimouse.evaluate.__name__ == "evaluate" and callable(omnimouse.evaluation.predict)


def test_modules_are_attributes_and_other_names_are_refused():
    assert omnimouse.recordings.checks.check.__name__ == "omnimouse.recordings.checks.check"
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        omnimouse.evaluat  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'finetun'"):
        exec("from omnimouse import finetun")


@pytest.mark.parametrize(
    "imports",
    [
        "import omnimouse; from transformers import AutoConfig, AutoModel, AutoProcessor",
        "from transformers import AutoConfig, AutoModel, AutoProcessor; import omnimouse",
        "import omnimouse.evaluation.evaluate, transformers; from transformers import *; import omnimouse",
        "import omnimouse.model.modeling_omnimouse; from transformers import AutoConfig, AutoModel, AutoProcessor",
        "import omnimouse.model.configuration_omnimouse; from transformers import AutoConfig, AutoModel, AutoProcessor",
    ],
)
def test_auto_classes_know_ours_whichever_is_imported_first(imports):
    code = f"""
{imports}
config = AutoConfig.from_pretrained({str(TINY)!r})
assert type(config) is omnimouse.OmniMouseConfig, type(config)
assert AutoModel._model_mapping[type(config)] is omnimouse.OmniMouseModel
assert type(AutoProcessor.from_pretrained({str(TINY)!r})) is omnimouse.OmniMouseProcessor
import types
assert isinstance(omnimouse.evaluate, types.FunctionType), omnimouse.evaluate
print("all")
"""
    assert python(code) == "all\n"


def test_the_network_knows_no_file():
    code = """
import sys, omnimouse
sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("omnimouse")]
import omnimouse.model.modeling_omnimouse  # without what follows the Auto classes, which transformers may import
others = ("omnimouse.hub", "omnimouse.pretrained", "omnimouse.recordings", "omnimouse.evaluation")
print(sorted(name for name in sys.modules if name.startswith(others)))
"""
    assert python(code) == "['omnimouse.pretrained', 'omnimouse.pretrained.auto_classes']\n"


def test_auto_classes_take_folders(tmp_path):
    model = AutoModel.from_pretrained(TINY)
    assert type(model) is OmniMouseModel
    model.processor = OmniMouseProcessor(profile="published", video_mean=100.0)
    model.save_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert type(processor) is OmniMouseProcessor and processor == model.processor
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert type(pickle.loads(pickle.dumps(config))) is OmniMouseConfig


def test_auto_classes_take_the_names_of_our_cores_without_asking_the_hub(monkeypatch, tmp_path):
    def ask(*_, **__):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("socket.socket.connect", ask)
    monkeypatch.chdir(tmp_path)
    model = AutoModel.from_pretrained("omnimouse-tiny", trust_remote_code=True)
    assert type(model) is OmniMouseModel and model.name_or_path == "omnimouse-tiny"
    assert model.dtype == OmniMouseModel.from_pretrained("omnimouse-tiny").dtype
    assert type(AutoProcessor.from_pretrained("omnimouse-tiny")) is OmniMouseProcessor
    for auto in (AutoConfig, OmniMouseConfig):
        assert auto.from_pretrained("omnimouse-tiny").hidden_size == model.config.hidden_size


def test_a_folder_comes_before_the_name_of_a_core(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("omnimouse-80m").symlink_to(TINY)
    assert not hub.is_core_name("omnimouse-80m") and hub.is_core_name("OmniMouse_20M")
    assert AutoModel.from_pretrained("omnimouse-80m").config.hidden_size == 128
