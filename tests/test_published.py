"""Published checkpoints: pickles are read, and never run."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omnimouse.published import load_checkpoint, model_from_state_dict

DATA = Path(__file__).parent / "data" / "reference"
CASES = json.loads((DATA / "cases.json").read_text())


def write_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Writes the reference weights as two rank files, with training state like the released ones carry."""
    weights = load_file(DATA / "published_state_dict.safetensors")
    keys = list(CASES["sessions"])
    folder.mkdir()
    for rank, owned in enumerate((keys[:1], keys[1:])):
        mine = {
            f"_orig_mod.{name}": tensor
            for name, tensor in weights.items()
            if any(f".{key}." in name for key in owned) or (rank == 0 and not name.startswith("sess_params."))
        }
        content = {
            "state_dict": mine,
            "session_map": {key: {**CASES["sessions"][key], "on_rank": key in owned} for key in keys},
            "rng_state": {"numpy_rng_state": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
            "compile_artifacts_bytes": b"\0cache",
            "step": 1000,
        }
        torch.save(content, folder / f"rank_{rank}.ckpt")
    return weights


def test_a_checkpoint_folder_gives_the_same_model_as_its_state_dict(tmp_path):
    weights = write_checkpoint(tmp_path / "ckpt")
    model = load_checkpoint(tmp_path / "ckpt")
    expected = model_from_state_dict(weights, CASES["hyperparameters"], CASES["sessions"])
    assert model.session_keys == sorted(CASES["sessions"])
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert model.config.video_attention_layout == "published"
    assert model.config.num_attention_heads == 2 and model.config.num_latents == 8


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    write_checkpoint(tmp_path / "ckpt")
    torch.save({"state_dict": {}, "extra": Payload()}, tmp_path / "ckpt" / "rank_1.ckpt")
    with pytest.raises(ValueError, match=r"rank_1.ckpt is refused"):
        load_checkpoint(tmp_path / "ckpt")
    assert not (tmp_path / "ran").exists()


def test_unusable_folders_are_explained(tmp_path):
    with pytest.raises(ValueError, match=r"holds no rank_0.ckpt"):
        load_checkpoint(tmp_path)
    (tmp_path / "rank_0.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"rank_0.ckpt"):
        load_checkpoint(tmp_path)
    (tmp_path / "rank_0.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ValueError, match=r"rank_0.ckpt"):
        load_checkpoint(tmp_path)


def test_the_size_can_be_checked(tmp_path):
    write_checkpoint(tmp_path / "ckpt")
    with pytest.raises(ValueError, match="does not hold a 5m model: hidden_size is 64, expected 256"):
        load_checkpoint(tmp_path / "ckpt", size="5m")


def test_missing_ranks_are_reported(tmp_path):
    write_checkpoint(tmp_path / "ckpt")
    (tmp_path / "ckpt" / "rank_1.ckpt").unlink()
    with pytest.warns(UserWarning, match="rank files of 2 sessions are missing"):
        model = load_checkpoint(tmp_path / "ckpt")
    assert len(model.session_keys) == 1
