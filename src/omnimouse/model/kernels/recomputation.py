"""Linear maps behind cheap element-wise chains, whose backward pass computes the chain again instead of storing it.

A norm, a rotation or a gated product costs little beside the matrix product that reads it, but what it makes is as
large: stored for the backward pass, such copies are most of the memory of a training step. Here only what a chain reads
is kept. A chain is a pure function of tensors without random numbers: a second time it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all

from omnimouse.model.kernels import chains
from omnimouse.model.kernels.chains import product_type, rms_normalize
from omnimouse.model.kernels.compiled_chains import fastest_form

Chain = Callable[..., Tensor]


def project(chain: Chain, modules: Sequence[nn.Module], *inputs: Tensor) -> tuple[Tensor, ...]:
    """What linear modules make of `chain(*inputs)`, `[..., features]`; that itself where there are none.

    Modules that are more than `nn.Linear` (a LoRA, a parametrization, one with hooks) are called as they are.
    """
    chain = fastest_form(chain, inputs)
    linear = [module for module in modules if isinstance(module, nn.Linear) and _is_plain(module, nn.Linear)]
    if len(linear) == len(modules):
        parameters = [p for module in linear for p in (module.weight, module.bias)]
        if _can_recompute((*inputs, *parameters)):
            return _Recomputed.apply(chain, len(inputs), *inputs, *parameters)
    hidden = chain(*inputs)
    return tuple(module(hidden) for module in modules) or (hidden,)


def project_normed(norm: nn.Module, modules: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """What linear modules make of `norm(x)`.

    On CPUs the norm is not computed again: the gradients of the residual stream would be summed in another order.
    """
    if isinstance(norm, nn.RMSNorm) and _is_plain(norm, nn.RMSNorm) and x.device.type not in chains.AS_EVER:
        return project(partial(rms_normalize, eps=norm.eps or torch.finfo(x.dtype).eps), modules, x, norm.weight)
    normed = norm(x)
    return tuple(module(normed) for module in modules)


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is its parameters and no more, and no one listens when it is called."""
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and not hooks_of_all._has_any_global_hook()
    )


def _can_recompute(tensors: Sequence[Tensor | None]) -> bool:
    """Whether there will be a backward pass, and nobody but autograd is to follow what is computed."""
    return (
        torch.is_grad_enabled()
        and any(tensor is not None and tensor.requires_grad for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, chain: Chain, n_inputs: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        inputs, parameters = tensors[:n_inputs], tensors[n_inputs:]
        hidden = chain(*inputs)
        context.chain, context.n_inputs = chain, n_inputs
        context.types = [None if tensor is None else tensor.dtype for tensor in parameters]
        # Not left to autocast: what it keeps of weights, made here without gradients, would serve other calls too.
        dtype = product_type(hidden)
        cast: list[Any] = [None if p is None else p.to(dtype) for p in parameters]
        context.save_for_backward(*inputs, *cast)
        if not cast:
            return (hidden,)
        rows = hidden.to(dtype)
        return tuple(F.linear(rows, weight, bias) for weight, bias in zip(cast[::2], cast[1::2], strict=True))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # `once_differentiable` says nothing where only the inputs have a history
            raise RuntimeError(
                "Second derivatives (create_graph=True) are not to be had where the backward pass computes parts of "
                "the forward pass again. Take them with torch.func, as in grad(grad(f)), which sees plain operations."
            )
        n, needed = context.n_inputs, context.needs_input_grad[2:]
        saved = context.saved_tensors  # once: gradient checkpointing gives them out a single time
        inputs = [x.detach().requires_grad_(need) for x, need in zip(saved[:n], needed, strict=False)]
        wanted = [x for x in inputs if x.requires_grad]
        with torch.enable_grad():
            hidden = context.chain(*inputs)
        if not (weights := saved[n::2]):
            return None, None, *_gradients(inputs, wanted, hidden, gradients[0])
        rows = hidden.detach().to(weights[0].dtype).flatten(0, -2)
        found: list[Tensor | None] = []
        towards = None
        for gradient, weight, at in zip(gradients, weights, range(n, len(needed), 2), strict=True):
            flat = gradient.flatten(0, -2)
            found += [flat.t() @ rows if needed[at] else None, flat.sum(0) if needed[at + 1] else None]
            if wanted:  # of each map as it would come from a cast of its own
                part = (flat @ weight).to(hidden.dtype).view(hidden.shape)
                towards = part if towards is None else towards + part
        found = [None if g is None else g.to(kind) for g, kind in zip(found, context.types, strict=True)]
        return None, None, *_gradients(inputs, wanted, hidden, towards), *found


def _gradients(
    inputs: Sequence[Tensor], wanted: Sequence[Tensor], hidden: Tensor, towards: Tensor | None
) -> list[Tensor | None]:
    """Gradients of a chain at its inputs, where they are wanted."""
    found = iter(torch.autograd.grad(hidden, wanted, towards) if wanted else ())
    return [next(found) if x.requires_grad else None for x in inputs]
