"""Packed attention is grouped attention: random groups, all masks of the release, both layouts of video tokens."""

import warnings
from functools import partial

import pytest
import torch
from emulated_kernel import EmulatedKernel, on_this_device
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALLEST, small

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.kernels import attention_kernels, kernel_trials, packed_attention
from omnimouse.model.kernels.attention_groups import Group, Groups, attend_by_groups
from omnimouse.model.kernels.attention_kernels import VARIABLE_LENGTH, layer_passes
from omnimouse.model.kernels.kernel_trials import plain_attention
from omnimouse.model.masking.mask_rules import video_steps
from omnimouse.model.masking.masks import EVALUATION_MASKS, TASKS, TRAINING_MASKS, as_mask

KEYS = 12
SIZES = {**SMALLEST, "num_fusion_layers": 2}
stretch = st.tuples(st.integers(0, KEYS - 1), st.integers(1, KEYS)).map(
    lambda ends: (min(ends), max(ends) + (ends[0] == ends[1]))
)


@st.composite
def layers(draw):
    """Groups of a layer over `KEYS` keys, of which neighbours differ."""
    groups, row = [], 0
    for _ in range(draw(st.integers(2, 6))):
        first, last = sorted((draw(stretch), draw(stretch)))
        keys = draw(
            st.sampled_from(
                [() if groups else ((2, 3),), (first,), (first, last) if last[0] > first[1] else ((0, KEYS),)]
            )
        )
        stop = row + draw(st.integers(1, 3))
        groups.append(Group(row, stop, keys))
        row = stop
    return Groups(groups)


def outputs_and_gradients(layer, groups, sharing, dtype):
    """Of a projection whose parts are views, as in our blocks."""
    torch.manual_seed(0)
    rows = max(KEYS, groups[-1].stop)
    projection = torch.randn(3, rows, (2 * sharing + 4) * 8).to(dtype).requires_grad_()
    query, key, value = projection.unflatten(-1, (-1, 8)).transpose(1, 2).split((2 * sharing, 2, 2), dim=1)
    out = layer(query[:, :, : groups[-1].stop].float(), key[:, :, :KEYS].float(), value[:, :, :KEYS], groups)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return out.float(), projection.grad.float()


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from([1, 3]), st.integers(1, KEYS + 1), st.sampled_from([torch.float32, torch.bfloat16]))
def test_random_groups(groups, sharing, long_stretch, dtype):
    with pytest.MonkeyPatch.context() as patch:
        on_this_device(patch, long_stretch=long_stretch)
        found = outputs_and_gradients(packed_attention.packed_attention, Groups(groups), sharing, dtype)
    expected = outputs_and_gradients(partial(attend_by_groups, plain_attention), groups, sharing, dtype)
    error = 1e-5 if dtype == torch.float32 else 0.02
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=error, atol=error)


@pytest.fixture(scope="module", params=["spatial", "published"])
def mouse(request):
    """A model as small as can be, two windows of a session of 16 neurons, and masks that it can be asked for.

    Under the one layout with shared key heads, and features in place of videos (whose attention is not packed); under
    the other with a channel that was not recorded.
    """
    torch.manual_seed(1)
    spatial = request.param == "spatial"
    sizes = {"num_key_value_heads": 1} if spatial else {}
    config = OmniMouseConfig.from_preset("tiny", **SIZES, **sizes, video_attention_layout=request.param)
    model = OmniMouseModel(config).eval()
    model.add_session("m", n_neurons=16, animal_id="a")
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    shapes = {"responses": (2, 60, 16), "video": (2, 1, 60, 36, 64), "behavior": (2, 5, 40)}
    windows = {name: torch.rand(shape) for name, shape in shapes.items()}
    if not spatial:
        windows["behavior"][:, 3] = torch.nan
    evaluated = [mask for suite in EVALUATION_MASKS.values() for mask in suite.values()]
    masks = [small(mask) for mask in (*TRAINING_MASKS, *evaluated, *(as_mask(task, config) for task in TASKS))]
    return model, windows, list(dict.fromkeys(masks)) if spatial else masks[::18]


def computed(model, windows, mask, *, bf16=False):
    """Predictions, and gradients of every parameter that has one, as one vector each."""
    if model.config.video_attention_layout == "spatial" and mask.n_frames:
        first, last = video_steps(mask, model.config)
        rows = (last - first) * model.config.video_tokens_per_step
        features = torch.linspace(-1, 1, 2 * rows * 2 * model.config.video_hidden_size).view(2, rows, -1)
        windows = {**windows, "video": None, "video_features": features}
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = model("m", **windows, mask=mask, all_neurons=True)
    out.loss.backward()
    found = [out[name].detach().flatten() for name in out if name.endswith("predictions")]
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat(found).nan_to_num(0.0), torch.cat(gradients)


@pytest.mark.parametrize("bf16", [False, True])
def test_all_masks(mouse, monkeypatch, bf16):
    model, windows, masks = mouse
    masks = masks[::20] if bf16 else masks
    expected = [computed(model, windows, mask) for mask in masks]
    calls = on_this_device(monkeypatch, long_stretch=40)
    for mask, both in zip(masks, expected, strict=True):
        for found, true in zip(computed(model, windows, mask, bf16=bf16), both, strict=True):
            assert true.isfinite().all(), mask
            assert (found - true).norm() < (0.05 if bf16 else 1e-5) * true.norm(), mask
    assert len(calls) > len(masks) and {call.keys is None for call in calls} == {True, False}


def test_the_kernel_is_called_as_this_pytorch_has_it():
    query, key = (torch.empty(rows, heads, 16, dtype=torch.bfloat16, device="meta") for rows, heads in ((6, 4), (9, 2)))
    groups = Groups([Group(0, 2, ((0, 3),)), Group(2, 3, ((1, 3), (0, 1)))])
    (call,) = packed_attention.plan_calls(groups, 3, 2, torch.device("meta"), long_stretch=10)
    out, norms = packed_attention.FLASH.forward(query, key, key, call)
    gradients = packed_attention.FLASH.backward(out, query, key, key, out, norms, call)
    assert out.shape == query.shape and [x.shape for x in gradients] == [query.shape, key.shape, key.shape]


class WrongKernel(EmulatedKernel):
    def backward(self, *given):
        to_query, to_key, to_value = super().backward(*given)
        return to_query, to_key * 1.05, to_value


class UnableKernel(EmulatedKernel):
    def forward(self, *given):
        raise TypeError("forward() takes other arguments")


@pytest.mark.parametrize("sharing", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_kernel_passes_its_trial(monkeypatch, dtype, sharing):
    monkeypatch.setattr(kernel_trials, "ROWS", (2, 21, 400))
    monkeypatch.setattr(attention_kernels, "_passed", {})
    calls = on_this_device(monkeypatch, long_stretch=None)
    value = torch.empty(1, 2, 1, 16, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer_passes(VARIABLE_LENGTH, packed_attention._tried, value, sharing)
    assert {len(call.stretches) for call in calls} == {0, 1}  # keys were gathered, and seen where they lie


@pytest.mark.parametrize(("kernel", "reason"), [(WrongKernel, "relative error"), (UnableKernel, "takes other argum")])
def test_a_kernel_that_is_wrong_or_fails_is_named_once(monkeypatch, kernel, reason):
    monkeypatch.setattr(kernel_trials, "ROWS", (2, 21))
    monkeypatch.setattr(attention_kernels, "_passed", {})
    monkeypatch.setattr(packed_attention, "FLASH", kernel())
    value = torch.empty(1, 2, 1, 16)
    with pytest.warns(UserWarning, match=f"kernel for sequences of different lengths is wrong on cpu .*{reason}"):
        assert not layer_passes(VARIABLE_LENGTH, packed_attention._tried, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not layer_passes(VARIABLE_LENGTH, packed_attention._tried, value)


def test_a_large_batch_is_computed_in_parts_and_plans_are_kept(monkeypatch):
    calls = on_this_device(monkeypatch, long_stretch=10)
    torch.manual_seed(0)
    groups = Groups([Group(0, 2, ((0, 3),)), Group(2, 3, ((1, 2), (3, 5)))])
    query, key, value = torch.randn(5, 2, 3, 8), torch.randn(5, 2, 5, 8), torch.randn(5, 2, 5, 8)
    whole = packed_attention.packed_attention(query, key, value, groups)
    packed_attention.packed_attention(query, key, value, groups)
    assert calls[0] is calls[1] and len(groups.calls) == 1
    monkeypatch.setattr(packed_attention, "MOST_GATHERED", 2 * 2 * 6 * 2 * 8 * 4)  # two windows
    torch.testing.assert_close(packed_attention.packed_attention(query, key, value, groups), whole)
    assert [call.batch for call in calls] == [5, 5, 2, 2, 1]


def test_float32_and_cpus_are_computed_group_by_group():
    groups = Groups([Group(0, 1, ((0, 1),)), Group(1, 2, ((1, 2),))])
    for place, dtype in (("cpu", torch.bfloat16), ("meta", torch.bfloat16)):
        x = torch.empty(1, 1, 2, 8, device=place, dtype=dtype)
        assert not packed_attention.packs(x, x, x, groups)
