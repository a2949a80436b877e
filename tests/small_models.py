"""Models small enough to build in a moment, a published checkpoint, and clients of the loopback hub that use them."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from omnimouse import OmniMouseConfig, OmniMouseModel

SMALL = {"hidden_size": 32, "identity_size": 8, "num_attention_heads": 2, "video_hidden_size": 16}

SMALLEST = {**SMALL, "num_latents": 4, "num_registers": 2, "video_num_heads": 1, "video_depths": [1, 1]}

SMALL_OVERRIDES = {**SMALLEST, "video_drop_path_rate": 0.5, "max_population": 10}
"""The settings of pre-trainings of a few steps."""

THREE = (("b-1-1", 12, "b"), ("a-2-1", 10, "a"), ("a-1-1", 9, "a"))
LONG = "dynamic29515-10-{}-Video-021a75e56847d574b9acbcc06c675055_30hz"
"""A key as the published sessions have it."""

DATA = Path(__file__).parent / "data" / "reference"
CASES = json.loads((DATA / "cases.json").read_text())


def small(mask):
    """A mask of the release, made for populations of up to 8,192 neurons, for one of 16 in place of 4,096."""
    counts = {name: getattr(mask, name) for name in ("n_visible_neurons", "n_target_neurons")}
    counts = {name: count if count is None else math.ceil(count / 256) for name, count in counts.items()}
    return replace(mask, **counts)


def build(*sessions, seed=0):
    """A model with sessions (key, neurons, animal), all of them random."""
    torch.manual_seed(seed)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL))
    for key, neurons, animal in sessions:
        model.add_session(key, n_neurons=neurons, animal_id=animal, unit_ids=np.arange(neurons))
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files of a folder by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rank_contents() -> list[dict]:
    """The reference weights as two ranks hold them, with training state like the released files carry."""
    weights, keys = load_file(DATA / "published_state_dict.safetensors"), list(CASES["sessions"])
    ranks = []
    for rank, owned in enumerate((keys[:1], keys[1:])):
        mine = {
            f"_orig_mod.{name}": tensor
            for name, tensor in weights.items()
            if any(f".{key}." in name for key in owned) or (rank == 0 and not name.startswith("sess_params."))
        }
        ranks.append(
            {
                "state_dict": mine,
                "session_map": {key: {**CASES["sessions"][key], "on_rank": key in owned} for key in keys},
                "rng_state": {"numpy_rng_state": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
                "compile_artifacts_bytes": b"\0cache",
                "step": 1000,
            }
        )
    return ranks


def write_ranks(folder: Path, contents: list[dict], **options) -> Path:
    """Writes contents as `rank_<r>.ckpt` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, content in enumerate(contents):
        torch.save(content, folder / f"rank_{rank}.ckpt", **options)
    return folder


PROLOGUE = """
import json, os, shutil, urllib.request, warnings
from pathlib import Path

import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

import omnimouse
from omnimouse import OmniMouseModel, OmniMouseProcessor, session_keys

load = OmniMouseModel.from_pretrained
api = HfApi()


def refused(kind, call, *parts):
    "The call raises an error of this kind, whose message has all parts."
    try:
        call()
    except kind as error:
        missing = [part for part in parts if part not in str(error)]
        assert not missing, (missing, str(error))
        return str(error)
    raise AssertionError("nothing was refused")


def control(route, **action):
    data = json.dumps(action).encode() if action else None
    with urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/_control{route}", data) as answer:
        return json.load(answer)


def fetched():
    "Files that were downloaded since this was asked last."
    log = control("/log")
    control("", action="clear_log")
    asked = [entry["path"] for entry in log if entry["method"] == "GET" and "/resolve/" in entry["path"]]
    return sorted({path.partition("/resolve/")[2].partition("/")[2] for path in asked})


"""


def client(hub, code: str, home: Path, **options):
    """Runs code as a client of a hub, with what `PROLOGUE` offers."""
    return hub.run(PROLOGUE + textwrap.dedent(code), home=home, **options)
