"""What a training step asks of an accelerator: kernels, host synchronisations and bytes, counted without one.

    python benchmarks/kernel_counts.py                          # prints a table
    python benchmarks/kernel_counts.py --presets 80m --ops 12   # and the twelve operations that are dispatched most
    python benchmarks/kernel_counts.py --label before --output benchmarks/results/kernel-counts.json

A step (forward and backward under bf16 autocast, no optimizer) runs on tensors that have shapes and no numbers, so that
every size fits and counts are the same on every machine. An operation that computes is a kernel (on a GPU some take two
or three); views are none. Attention and RMS norm count as one kernel each way, as on a GPU, whatever the CPU would do.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import describe_machine, markdown_table, replace_file
from meters import GIB
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model import attention, modeling_omnimouse, video
from omnimouse.model.kernels import chains, packed_attention

SESSION = "benchmark"
MASKS = ("forecasting+stimulus+behavior", "population")
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "lift_fresh"}
"""Operations for which host and device wait for each other: `lift_fresh` is what becomes of Python numbers that are
made a tensor, also of lists that are an index."""

FREE = {"detach", "alias", "lift_fresh", "_local_scalar_dense", "empty", "empty_like", "empty_strided", "new_empty",
        "new_empty_strided", "is_same_size", "_unsafe_view", "sym_size", "prim_layout", "device"}  # fmt: skip
"""Operations that start no kernel; so do views."""


@dataclass
class Counts:
    """What was counted over one pass.

    Args:
        kernels: operations that compute, by name.
        synchronisations: operations that make host and device wait for each other.
        moved: bytes of their inputs and outputs.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    synchronisations: int = 0
    moved: int = 0


class Counting(TorchDispatchMode):
    """Counts what is dispatched while it is on, into `counts`, which may be exchanged; and the bytes that live."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__.removeprefix("count_")
        self.counts.synchronisations += name in SYNCHRONISING
        if name == "_local_scalar_dense":
            return 0.0 if args[0].dtype.is_floating_point else False if args[0].dtype == torch.bool else 0
        if name.strip("_").startswith("index") and any(is_bool(index) for index in _indices(args)):
            self.counts.synchronisations += 1  # on a GPU, numbers of a boolean index are waited for
            self.counts.kernels["nonzero"] += 1
            args = (args[0], [wholly(index) if is_bool(index) else index for index in _indices(args)], *args[2:])
            args = (args[0], tree_leaves(args[1], is_leaf=lambda leaf: leaf is None), *args[2:])
        out = operation(*args, **(kwargs or {}))
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if name not in FREE and not operation.is_view and written:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.counts.kernels[name] += 1
            self.counts.moved += sum(map(own_bytes, (*read, *written)))
        for tensor in written:
            self.watch(tensor)
        return out

    def watch(self, tensor: Tensor) -> None:
        """Counts a tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, storage._cdata, None)
            self.peak = max(self.peak, sum(self.live.values()))


def _indices(args: Any) -> Sequence[Tensor | None]:
    return args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()


def is_bool(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def wholly(index: Tensor) -> list[Tensor]:
    """Indices of as many elements as there are, in place of a boolean one, whose numbers nobody knows."""
    return [index.new_empty(index.numel(), dtype=torch.long) for _ in index.shape]


def own_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements, those that it repeats (stride 0) counted once."""
    n = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        n *= size if stride or not size else 1
    return n * tensor.element_size()


# One operation where a GPU has one kernel. Shape letters: B batch, H heads, Q query rows, K key rows, C head size.


@torch.library.custom_op("omnimouse_counts::count_attention", mutates_args=())
def one_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of `[B, H, Q, C]`, and what its backward pass needs of it, in the layout of flash attention."""
    raise NotImplementedError


@one_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    b, h, q, c = query.shape
    return value.new_empty(b, q, h, c).transpose(1, 2), value.new_empty(b, h, q, dtype=torch.float32)


@torch.library.custom_op("omnimouse_counts::count_attention_backward", mutates_args=())
def one_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError


@one_attention_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in (query, key, value))
    return q, k, v


one_attention.register_autograd(
    lambda context, gradient, _: one_attention_backward(gradient, *context.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output),
)


@torch.library.custom_op("omnimouse_counts::count_rms_norm", mutates_args=())
def one_rms_norm(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """RMS norm over the last axis, and what its backward pass needs of it."""
    raise NotImplementedError


@one_rms_norm.register_fake
def _(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("omnimouse_counts::count_rms_norm_backward", mutates_args=())
def one_rms_norm_backward(gradient: Tensor, x: Tensor, norms: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


@one_rms_norm_backward.register_fake
def _(gradient: Tensor, x: Tensor, norms: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape[-1:])


def _norm_backward(context: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None]:
    x, norms, *weight = context.saved_tensors
    to_x, to_weight = one_rms_norm_backward(gradient, x, norms, *(weight or (None,)))
    return to_x, to_weight if weight else None


one_rms_norm.register_autograd(
    _norm_backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(
        inputs[0], output[1], *(part for part in inputs[1:] if part is not None)
    ),
)


@torch.library.custom_op("omnimouse_counts::count_packed_attention", mutates_args=())
def one_packed_attention(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention between sequences of `[rows, H, C]`, and what its backward pass needs of it."""
    raise NotImplementedError


@one_packed_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=torch.float32)


class CountedKernel:
    """A kernel for `packed_attention` that counts as one operation each way."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, call: Any) -> tuple[Tensor, Tensor]:
        return one_packed_attention(query, key, value, call.query_ends, call.key_ends)

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norms: Tensor, call: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        return one_attention_backward(gradient, query, key, value, out, norms)


@contextmanager
def as_on_an_accelerator(*, packed: bool = True) -> Iterator[None]:
    """Attention and norms as single operations, and numbers that are read from tensors in one go.

    Args:
        packed: whether layers of several groups are computed in packed form.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return one_attention(query.to(value.dtype), key.to(value.dtype), value)[0]

    def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        return one_rms_norm(x, weight)[0]

    with (
        mock.patch.object(attention, "dense_attention", attend),
        mock.patch.object(video, "dense_attention", attend),
        mock.patch.object(attention, "packs", lambda query, key, value, groups: packed and len(groups) > 1),
        mock.patch.object(packed_attention, "FLASH", CountedKernel()),
        mock.patch.object(torch.nn.functional, "rms_norm", rms_norm),
        mock.patch.object(chains, "AS_EVER", set()),
        mock.patch.object(FakeTensor, "tolist", _zeros),
    ):
        yield


def _zeros(tensor: Tensor) -> Any:
    """A synchronisation, and numbers as they might be: a list of zeros."""
    tensor.flatten()[0].item()
    zeros: Any = 0
    for size in reversed(tensor.shape):
        zeros = [zeros] * size
    return zeros


def count_step(
    preset: str, mask: str, *, batch: int = 8, n_neurons: int = 8000, population: int = 4096, bf16: bool = True,
    packed: bool = True, channels: tuple[int, ...] | None = None, **overrides: Any,
) -> dict[str, Any]:  # fmt: skip
    """Counts a training step; the first one, which plans, is not counted.

    Args:
        preset: name of a preset of `OmniMouseConfig`.
        mask: task name or `suite/name` of an evaluation mask.
        batch: windows.
        n_neurons: of the session.
        population: neurons in a window.
        bf16: whether to autocast.
        packed: whether attention is computed in packed form.
        channels: behaviour channels that were recorded, None for all.
        overrides: fields of the configuration.

    Returns:
        Counts of the forward and the backward pass, bytes that are kept for the backward pass, and bytes that live at
        most: parameters, their gradients and inputs included.
    """
    config = OmniMouseConfig.from_preset(preset, **overrides)
    model = OmniMouseModel(config).train()
    model.add_session(SESSION, n_neurons=n_neurons, animal_id="mouse")
    plan = model.window_plan(mask, population, channels)  # on real tensors: how often rows repeat is a number
    for layer in (plan.encoder, plan.fusion_local, plan.decoder):
        if layer is not None:
            place = (layer.key_rotary.shape[1], batch, model.device)
            layer.groups.calls[place] = packed_attention.plan_calls(layer.groups, *place)
    shapes = {
        "responses": (batch, config.num_response_samples, n_neurons),
        "video": (batch, 1, config.num_frames, config.frame_height, config.frame_width),
        "behavior": (batch, len(config.behavior_channels), config.num_behavior_samples),
    }
    saved: dict[int, int] = {}
    # Callers check ids on the host, which costs the device nothing.
    known_ids = mock.patch.object(modeling_omnimouse, "choose_neurons", lambda n_neurons, batch, ids, *given: ids)

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as fake, as_on_an_accelerator(packed=packed), known_ids:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(fake.from_tensor(parameter.detach()))
        windows = {name: torch.empty(shape) for name, shape in shapes.items()}
        ids = torch.empty(batch, population, dtype=torch.long)
        recorded = tuple(range(len(config.behavior_channels))) if channels is None else channels
        for _ in range(2):
            model.zero_grad()
            saved.clear()
            counting = Counting()
            for tensor in (*model.parameters(), *windows.values(), ids):
                counting.watch(tensor)
            with counting, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    loss = model(SESSION, **windows, mask=mask, neuron_ids=ids, behavior_channels=recorded).loss
                forward, counting.counts = counting.counts, Counts()
                kept = sum(saved.values())
                loss.backward()
    return {"forward": forward, "backward": counting.counts, "saved": kept, "peak": counting.peak}


HEADER = [
    "preset",
    "mask",
    "run",
    "kernels forward",
    "backward",
    "synchronisations",
    "GB moved",
    "GiB saved",
    "GiB peak",
]


def as_row(preset: str, mask: str, label: str, counted: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    passes: tuple[Counts, Counts] = (counted["forward"], counted["backward"])
    numbers = [
        *(counts.kernels.total() for counts in passes), sum(counts.synchronisations for counts in passes),
        round(sum(counts.moved for counts in passes) / 1e9, 1), round(counted["saved"] / GIB, 2),
        round(counted["peak"] / GIB, 2),
    ]  # fmt: skip
    return dict(zip(HEADER, (preset, mask, label, *numbers), strict=True))


def write(path: Path, label: str, rows: Sequence[dict[str, Any]], about: Sequence[str]) -> None:
    """Keeps a run beside those of other labels, as JSON and as a table."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    machine = describe_machine()
    made = [f"commit {machine['commit']}", f"torch {machine['torch']}", *about]
    kept[label] = {"machine": machine, "about": made, "rows": list(rows)}
    replace_file(path, json.dumps(kept, indent=1) + "\n")
    found = [row for run in kept.values() for row in run["rows"]]
    cases = list(dict.fromkeys((row["preset"], row["mask"]) for row in found))
    found.sort(key=lambda row: cases.index((row["preset"], row["mask"])))
    lines = [
        "# Kernels, synchronisations and bytes of a training step",
        "",
        "Counted by `benchmarks/kernel_counts.py` (which see for what counts), not measured. Runs:",
        "",
        *(f"- **{name}**: " + ", ".join(run["about"]) + "." for name, run in kept.items()),
        "",
        *markdown_table(HEADER, [[str(row[name]) for name in HEADER] for row in found], numbers_from=3),
    ]  # fmt: skip
    replace_file(path.with_suffix(".md"), "\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "5m", "80m"])
    parser.add_argument("--masks", nargs="+", default=MASKS)
    parser.add_argument("--batch", type=int, default=8, help="windows (default: 8)")
    parser.add_argument("--neurons", type=int, default=8000, help="of the session (default: 8000)")
    parser.add_argument("--population", type=int, default=4096, help="neurons in a window (default: 4096)")
    parser.add_argument("--float32", action="store_true", help="without autocast")
    parser.add_argument("--grouped", action="store_true", help="attention group by group, as where nothing else serves")
    parser.add_argument("--ops", type=int, default=0, metavar="N", help="also print the N most frequent operations")
    parser.add_argument("--label", default="now", help="name of this run in the table (default: now)")
    parser.add_argument(
        "--output", type=Path, help="JSON file that keeps rows of other labels; a .md is written beside"
    )
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for preset in options.presets:
        for mask in options.masks:
            counted = count_step(
                preset, mask, batch=options.batch, n_neurons=options.neurons, population=options.population,
                bf16=not options.float32, packed=not options.grouped,
            )  # fmt: skip
            rows.append(as_row(preset, mask, options.label, counted))
            print(json.dumps(rows[-1]), flush=True)
            for name in ("forward", "backward") if options.ops else ():
                print(f"  {name}: {counted[name].kernels.most_common(options.ops)}", flush=True)
    if options.output:
        about = (f"batch {options.batch}", f"{options.population} of {options.neurons} neurons",
                 "float32" if options.float32 else "bf16 autocast")  # fmt: skip
        write(options.output, options.label, rows, about)


if __name__ == "__main__":
    main()
