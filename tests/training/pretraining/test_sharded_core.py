"""A core sharded over processes trains like a whole one: what docs/pretraining.md says about FSDP."""

from __future__ import annotations

import warnings

import torch
from small_models import SMALL_OVERRIDES
from training import processes

from omnimouse import OmniMouseConfig, OmniMouseModel

MASKS = ("stimulus+behavior", "population", "behavior", "forecasting+stimulus")


def build(rank):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **{**SMALL_OVERRIDES, "video_drop_path_rate": 0.0}))
    model.add_session(f"m{rank}-1-1", n_neurons=12 + rank, animal_id=f"a{rank}")
    for parameter in model.sessions.parameters():
        torch.nn.init.normal_(parameter)
    return model


def core_parameters(model):
    return {name: p for name, p in model.named_parameters() if not name.startswith("sessions.")}


def inputs(step, rank):
    generator = torch.Generator().manual_seed(10 * step + rank)
    return {
        "responses": torch.rand(2, 60, 12 + rank, generator=generator),
        "video": torch.rand(2, 1, 60, 36, 64, generator=generator),
        "behavior": torch.rand(2, 5, 40, generator=generator),
    }


def compare(rank, world):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    warnings.simplefilter("ignore")  # about views, which no operation changes in place here
    dist.init_process_group("gloo")
    whole, sharded = build(rank), build(rank)
    mesh = init_device_mesh("cpu", (world,))
    for block in (sharded.video_encoder, sharded.encoder, *sharded.fusion, sharded.decoder):
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh, ignored_params=set(sharded.sessions.parameters()))
    models = (whole, sharded)
    optimizers = [torch.optim.AdamW(core_parameters(model).values(), lr=1e-3) for model in models]
    for step, mask in enumerate(MASKS):
        for model, optimizer in zip(models, optimizers, strict=True):
            model(f"m{rank}-1-1", **inputs(step, rank), mask=mask, all_neurons=True).loss.backward()
            for parameter in core_parameters(model).values():
                # What a mask skips has gradient zero, as in `train`, rather than none.
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                if model is whole:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= world
            optimizer.step()
            optimizer.zero_grad()
    parts = core_parameters(sharded)
    for name, parameter in core_parameters(whole).items():
        assert (parts[name].detach().full_tensor() - parameter.detach()).abs().max() < 1e-6, name
    held = sum(parameter.to_local().numel() for parameter in parts.values())
    assert held < 0.6 * whole.num_core_parameters()
    assert all(p.shape[0] == 12 + rank for name, p in sharded.named_parameters() if name.endswith("neuron_bias"))


def test_a_sharded_core_trains_like_a_whole_one(tmp_path):
    codes = processes.launch(compare, 2, tmp_path, world=2)
    assert codes == [0, 0], processes.messages(tmp_path)
