"""The chains of the blocks compiled by `torch.compile`, once for all masks, where a caller switched that on.

A compiled chain is one kernel, or two, where the plain one is many. Sizes are symbols in it, so that other masks and
populations are served by what is there. It is tried at first use, outputs and gradients, on a few rows of what it is to
serve; where that fails (no compiler, no Triton, other numbers), chains compute as they are, after one warning.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omnimouse.model.kernels import chains
from omnimouse.support.compute_devices import autocast_type

Chain = Callable[..., Tensor]

BACKEND = "inductor"
"""What `torch.compile` compiles with."""

PAYS_FROM = 2000
"""Steps to come from which on a training on CUDA compiles unless told otherwise: compilation takes the time of some
hundred steps, or of many more where the core is small."""

CHAINS = (chains.rms_normalize, chains.unit_heads, chains.turn_heads, chains.normalize_heads, chains.gated_product)

TRIED_SIZES = (8, 512)
"""Windows and rows at most of a trial: enough for what a compiler chooses by the sizes that it sees first, which serves
all others; few beside those of a step."""

_switched_on = ContextVar("compiled chains", default=False)
_lock = threading.RLock()
_compiled: dict[tuple[Any, ...], _CompiledChain] = {}
_failed: set[torch.device] = set()


@contextmanager
def compiling_chains(on: bool) -> Iterator[None]:
    """Whether chains are compiled within the block, in this thread; a backward pass is as its forward pass was."""
    token = _switched_on.set(on)
    try:
        yield
    finally:
        _switched_on.reset(token)


def pays_to_compile(compile_model: Literal["auto"] | bool, device: torch.device, steps: int) -> bool:
    """Whether a training of so many `steps` to come compiles; "auto": on CUDA from `PAYS_FROM` on."""
    return device.type == "cuda" and steps >= PAYS_FROM if compile_model == "auto" else compile_model


def fastest_form(chain: Chain, inputs: Sequence[Tensor]) -> Chain:
    """A chain, compiled if that is switched on and its trial on the device of its inputs went well; else as it is."""
    if torch.compiler.is_compiling() or not _switched_on.get() or torch._C._are_functorch_transforms_active():
        return chain
    function, keywords = (chain.func, chain.keywords) if isinstance(chain, partial) else (chain, {})
    if function not in CHAINS or (isinstance(chain, partial) and chain.args):
        return chain
    tables = {name: value for name, value in keywords.items() if isinstance(value, Tensor)}
    fixed = {name: value for name, value in keywords.items() if name not in tables and name != "select"}
    read = (*inputs, *tables.values())
    device = read[0].device
    if device in _failed or not all(type(x) in (Tensor, nn.Parameter) and x.numel() for x in read):
        return chain
    select = keywords.get("select")
    width = None if function is chains.gated_product else read[0].shape[-1]
    modes = autocast_type(device.type)
    case = (function, width, BACKEND, modes, *fixed.items(), *tables, device, *((x.dtype, x.ndim) for x in read))
    with _lock:
        if case not in _compiled:
            _compiled[case] = _CompiledChain(function, width, fixed, tuple(tables))
            if reason := _trial(_compiled[case], _selected(select, inputs), tuple(tables.values())):
                _failed.add(device)
                _warn(f"The blocks are not compiled on {device} ({reason})")
    found = _compiled[case]
    if device in _failed or found.compiled is None:
        return chain
    return lambda *given: found(*_selected(select, given), *tables.values())


def _selected(select: Callable[[Tensor], Tensor] | None, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Those rows that are selected: which these are depends on the mask, and so is left out of what is compiled."""
    return inputs if select is None else [select(x) for x in inputs]


class _CompiledChain:
    """A chain, plain and compiled, with what of its arguments is no tensor fixed; for rows of a width, or of any."""

    def __init__(self, function: Chain, width: int | None, fixed: dict[str, Any], tables: tuple[str, ...]) -> None:
        def plain(*tensors: Tensor) -> Tensor:
            assert width is None or tensors[0].shape[-1] == width  # no symbol: of known length, sums are faster
            inputs, found = tensors[: len(tensors) - len(tables)], tensors[len(tensors) - len(tables) :]
            return function(*inputs, **dict(zip(tables, found, strict=True)), **fixed)

        # PyTorch counts what it compiled by code, and gives up after some: each has a code of its own.
        code = plain.__code__.replace(co_name=f"{function.__name__}_{len(_compiled)}")
        own = FunctionType(code, plain.__globals__, code.co_name, closure=plain.__closure__)
        self.plain: Chain = plain
        self.compiled: Chain | None = torch.compile(own, dynamic=True, fullgraph=True, backend=BACKEND)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Compiled, and as it is from the first time on that this cannot be done."""
        if self.compiled is not None:
            if not torch.is_grad_enabled():  # whose views they are, and what needs gradients, would be looked at
                tensors = tuple(x.detach() for x in tensors)
            try:
                return self.compiled(*tensors)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self.compiled = None
                _warn(f"A part of the blocks is compiled no longer ({_in_words(error)})")
        return self.plain(*tensors)


def _trial(chain: _CompiledChain, inputs: Sequence[Tensor], tables: Sequence[Tensor]) -> str | None:
    """Why a compiled chain cannot be used, found on a few rows of what it would read; None where it can.

    In a thread of its own, in which the caller's modes and hooks of saved tensors play no part. What is compiled there
    serves later: as the forward pass calls it, without gradients under autocast, and as the backward pass does.
    """
    kind, found = inputs[0].device.type, list[str | None]()
    dtype = autocast_type(kind)
    autocast = nullcontext if dtype is None else partial(torch.autocast, kind, dtype)

    def attempt() -> None:
        try:
            few, their = [_few_rows(x) for x in inputs], [_few_rows(x) for x in tables]
            forms = [form for form in (chain.compiled, chain.plain) if form is not None]
            with torch.no_grad(), autocast():
                outs = [form(*few, *their) for form in forms]
            for x in few:
                x.requires_grad_()
            tried, true = (_with_gradients(form(*few, *their), few) for form in forms)
            pairs = [tuple(outs), *zip(tried, true, strict=True)]
            found.append(next((reason for pair in pairs if (reason := _difference(*pair))), None))
        except Exception as error:
            found.append(_in_words(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found[0]


def _few_rows(x: Tensor) -> Tensor:
    """Some rows of a tensor, laid out as it is; all of its last axis."""
    few = x.detach()
    for axis, size in enumerate(TRIED_SIZES[: x.ndim - 1]):
        few = few.narrow(axis, 0, min(size, few.shape[axis]))
    few = few.contiguous() if x.is_contiguous() else few
    return few.clone() if few.is_inference() else few.detach()


def _with_gradients(out: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """An output, and gradients of its elements, weighed each by another weight."""
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).to(out.dtype).view(out.shape)
    return out.detach(), *torch.autograd.grad(out, inputs, weights)


def _difference(tried: Tensor, true: Tensor) -> str | None:
    """In what a tensor differs from another by more than rounding does."""
    if tried.dtype != true.dtype or tried.shape != true.shape:
        return f"{tried.dtype} {tuple(tried.shape)} in place of {true.dtype} {tuple(true.shape)}"
    error = float((tried.double() - true.double()).norm() / true.double().norm().clamp_min(1e-30))
    return None if error <= 8 * max(torch.finfo(true.dtype).eps, 1e-6) else f"relative error {error:.2g}"


def _in_words(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _warn(what: str) -> None:
    warnings.warn(f"{what}; they compute as they are, which may be slower.", stacklevel=4)
