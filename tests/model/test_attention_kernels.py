"""Kernels are tried before they are trusted, and PyTorch's switches are the user's; 120 masks with finite gradients."""

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALLEST, small
from torch.backends import cuda
from torch.nn.attention import SDPBackend

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model import attention, video
from omnimouse.model.kernels import attention_kernels, kernel_trials
from omnimouse.model.kernels.attention_kernels import attend, attend_by_switches, passes
from omnimouse.model.kernels.kernel_trials import plain_attention
from omnimouse.model.masking.masks import TRAINING_MASKS

SWITCHES = ("flash", "mem_efficient", "math", "cudnn")


def switches():
    return {name: getattr(cuda, f"{name}_sdp_enabled")() for name in SWITCHES}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No kernel was tried yet, trials are short, and all switches are on afterwards."""
    monkeypatch.setattr(attention_kernels, "_passed", {})
    monkeypatch.setattr(kernel_trials, "ROWS", (2, 21))
    before = switches()
    yield
    for name, is_on in before.items():
        getattr(cuda, f"enable_{name}_sdp")(is_on)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return tuple(torch.randn(3, 2, rows, 16).requires_grad_() for rows in (5, 9, 9))


class NaNGradients(torch.autograd.Function):
    """What cuDNN did on our views."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.nan


def wrong_gradients(query, key, value):
    return NaNGradients.apply(plain_attention(query, key, value))


def wrong_on_views(query, key, value):
    """Right on contiguous tensors, and reading past the end of strided ones."""
    if value.is_contiguous():
        return plain_attention(query, key, value)
    return plain_attention(query, key, torch.as_strided(value, value.shape, value.contiguous().stride()))


def slightly_off(query, key, value):
    return plain_attention(query, key, value) * 1.05


def unable(query, key, value):
    raise RuntimeError("No available kernel. Aborting execution.")


@pytest.mark.parametrize("broken", [wrong_gradients, wrong_on_views, slightly_off])
def test_a_kernel_that_is_wrong_is_found_out_once_and_the_formula_serves(monkeypatch, inputs, broken):
    expected = F.scaled_dot_product_attention(*inputs)
    monkeypatch.setattr(attention_kernels.F, "scaled_dot_product_attention", broken)
    with pytest.warns(UserWarning, match=r"attention of this device is wrong on cpu for torch.float32 and heads of 16"):
        out = attend(*inputs)
    torch.testing.assert_close(out, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend(*inputs).sum().backward()
    assert all(x.grad.isfinite().all() for x in inputs)


def test_a_kernel_that_does_not_serve_a_device_is_left_out_without_a_word(monkeypatch, inputs):
    monkeypatch.setattr(attention_kernels.F, "scaled_dot_product_attention", unable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(attend(*inputs), plain_attention(*inputs))


def test_no_memory_for_a_trial_says_nothing_about_the_kernel(inputs):
    def full(query, key, value):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        passes(None, full, inputs[2])
    assert not attention_kernels._passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_kernel_passes_in_every_type_and_mode_and_leaves_randomness_alone(dtype):
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert passes(None, F.scaled_dot_product_attention, torch.empty(1, 1, 1, 32, dtype=dtype))
    assert torch.equal(torch.get_rng_state(), state)


def test_tensors_without_numbers_are_not_tried_with():
    assert passes(None, wrong_gradients, torch.empty(1, device="meta").as_subclass(type("Fake", (torch.Tensor,), {})))
    assert not attention_kernels._passed


def chosen(monkeypatch):
    """The switches at every attention call from here on."""
    seen = []
    compute = F.scaled_dot_product_attention

    def noted(*args):
        seen.append({name for name, is_on in switches().items() if is_on})
        return compute(*args)

    monkeypatch.setattr(attention_kernels.F, "scaled_dot_product_attention", noted)
    return seen


def trust(value, *kernels):
    for kernel in attention_kernels.FUSED:
        attention_kernels._passed[(kernel, value.device, value.dtype, value.shape[-1], 1)] = kernel in kernels


@pytest.mark.parametrize(
    ("off", "sound", "expected"),
    [
        ((), attention_kernels.FUSED, {"flash", "mem_efficient", "math"}),
        ((), attention_kernels.FUSED[:1], {"flash", "math"}),
        ((), (), {"math"}),
        (("flash",), attention_kernels.FUSED, {"mem_efficient", "math"}),
        (("math",), attention_kernels.FUSED, {"flash", "mem_efficient"}),
        (("flash", "mem_efficient", "math"), attention_kernels.FUSED, {"math"}),
        (("math",), (), {"math"}),
        (("cudnn",), attention_kernels.FUSED, {"flash", "mem_efficient", "math"}),
    ],
)
def test_only_sound_kernels_that_the_user_left_on_are_used_and_never_cudnn(monkeypatch, inputs, off, sound, expected):
    for name in off:
        getattr(cuda, f"enable_{name}_sdp")(False)
    trust(inputs[2], *sound)
    seen, before = chosen(monkeypatch), switches()
    attend_by_switches(*inputs)
    assert seen == [expected] and switches() == before


def test_the_switches_are_the_users_again_after_an_error(monkeypatch, inputs):
    trust(inputs[2], *attention_kernels.FUSED)
    cuda.enable_flash_sdp(False)
    before = switches()
    monkeypatch.setattr(attention_kernels.F, "scaled_dot_product_attention", unable)
    with pytest.raises(RuntimeError, match="No available kernel"):
        attend_by_switches(*inputs)
    assert switches() == before and before["cudnn"] and not before["flash"]


def test_threads_do_not_take_each_others_switches_for_the_users(monkeypatch, inputs):
    trust(inputs[2], *attention_kernels.FUSED)
    inside, compute = threading.Barrier(2), F.scaled_dot_product_attention

    def slow(*args):
        try:
            inside.wait(timeout=0.2)  # both are in here at once only if nothing keeps them apart
        except threading.BrokenBarrierError:
            return compute(*args)
        raise AssertionError("two threads set switches at once")

    monkeypatch.setattr(attention_kernels.F, "scaled_dot_product_attention", slow)
    before, errors = switches(), []

    def run():
        try:
            attend_by_switches(*inputs)
        except AssertionError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and switches() == before


def test_the_kernels_of_cuda_are_tried_one_by_one(monkeypatch, inputs):
    seen = chosen(monkeypatch)
    out = attend_by_switches(*inputs)
    assert {"flash"} in seen and {"mem_efficient"} in seen  # this machine's CPU has the first and lacks the second
    assert attention_kernels._passed == {
        (SDPBackend.FLASH_ATTENTION, out.device, out.dtype, 16, 1): True,
        (SDPBackend.EFFICIENT_ATTENTION, out.device, out.dtype, 16, 1): False,
    }
    torch.testing.assert_close(out, plain_attention(*inputs))


@pytest.mark.parametrize("function", [attend, attend_by_switches])
def test_compiles_without_a_graph_break(inputs, function):
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), plain_attention(*inputs))
    assert switches() == dict.fromkeys(SWITCHES, True)


def test_more_items_than_a_grid_has_are_computed_in_parts(monkeypatch, inputs):
    monkeypatch.setattr(attention_kernels, "MOST_ITEMS", 2)
    torch.testing.assert_close(attend(*inputs), plain_attention(*inputs))


@pytest.fixture(scope="module")
def mouse():
    """A model as small as can be, and a window of a session of 16 neurons."""
    torch.manual_seed(1)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST)).eval()
    model.add_session("m", n_neurons=16, animal_id="a")
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    arrays = {"responses": (1, 60, 16), "video": (1, 1, 60, 36, 64), "behavior": (1, 5, 40)}
    return model, {name: torch.rand(shape) for name, shape in arrays.items()}


def gradients(model, arrays, mask, *, bf16=False):
    """Gradients of every parameter that has one, as one vector."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = model("m", **arrays, mask=small(mask), all_neurons=True)
    out.loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_every_training_mask_has_finite_gradients(mouse):
    wrong = [mask for mask in TRAINING_MASKS if not gradients(*mouse, mask).isfinite().all()]
    assert not wrong and len(TRAINING_MASKS) == 120


@pytest.mark.parametrize("kernel", [attend, attend_by_switches])
def test_the_ways_of_accelerators_give_the_same_gradients(mouse, monkeypatch, kernel):
    masks = TRAINING_MASKS[::13]
    expected = [gradients(*mouse, mask) for mask in masks]
    used = []

    def elsewhere(query, key, value):
        used.append(value.dtype)
        return kernel(query.to(value.dtype), key.to(value.dtype), value)

    for module in (attention, video):
        monkeypatch.setattr(module, "dense_attention", elsewhere)
    for mask, gradient in zip(masks, expected, strict=True):
        assert (gradients(*mouse, mask) - gradient).norm() < 1e-5 * gradient.norm()
        found = gradients(*mouse, mask, bf16=True)
        assert (found - gradient).norm() < 0.05 * gradient.norm()
    assert set(used) == {torch.float32, torch.bfloat16}
