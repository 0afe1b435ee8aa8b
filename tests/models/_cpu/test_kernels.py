"""Kernels made in advance: used where they may be, never once a weight has changed, packed or not."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speakerverif.models._cpu import kernels
from speakerverif.models._cpu.frames import KERNEL_ROWS, PACKED_CHANNELS, ROWS, WEIGHTS, FastLinear
from speakerverif.models._cpu.kernels import pack
from speakerverif.models._cpu.swap import accelerate, restore
from speakerverif.models.encoders._maps import ConvNorm, MapConv
from speakerverif.models.encoders._tdnn import TimeConv

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 7), (2, KERNEL_ROWS, 5)),
    "linear, no bias": (lambda: nn.Linear(5, 7, bias=False), (KERNEL_ROWS, 5)),
    "linear, few rows": (lambda: nn.Linear(5, 7), (9, 5)),
    "over time": (lambda: TimeConv(5, PACKED_CHANNELS, 3, 2, "zeros"), (2, 9, 5)),
    "of maps": (lambda: MapConv(4, 6, stride=(2, 1), bias=True), (2, 4, 9, 8)),
    "of maps, pointwise": (lambda: MapConv(4, 6, (1, 1), (2, 2)), (2, 4, 9, 8)),
    "of maps, grouped, with norm": (lambda: ConvNorm(4, 6, groups=2), (2, 4, 9, 8)),
}


@pytest.fixture(params=[(name, packed) for name in LAYERS for packed in (True, False)], ids=str)
def layer(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    name, packed = request.param
    make, shape = LAYERS[name]
    layer = make().eval()
    if isinstance(layer, ConvNorm):
        assert layer.norm.running_mean is not None
        nn.init.uniform_(layer.norm.running_mean)
    layer.given = torch.randn(shape)
    if len(shape) == 4:
        layer.given = layer.given.contiguous(memory_format=torch.channels_last)
    accelerate(layer, kernels=True, pack_products=packed)
    return layer


def result(layer: Any) -> Tensor:
    with torch.inference_mode():
        values: Tensor = layer(layer.given)
        return values


def plain(layer: Any) -> Tensor:
    """What the plain layer with the same weights gives."""
    layer = copy.deepcopy(layer)
    restore(layer)
    return result(layer)


def without_kernel(layer: Any) -> Tensor:
    return result(copy.deepcopy(layer))


def uses_kernel(layer: Any) -> bool:
    with torch.inference_mode():
        return layer.kernel_for(layer.given) is not None


def test_gives_what_the_weights_give(layer: Any) -> None:
    assert uses_kernel(layer) and not uses_kernel(copy.deepcopy(layer))
    torch.testing.assert_close(result(layer), plain(layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_relu_is_that_of_the_result(packed: bool) -> None:
    layer = FastLinear(5, 7)
    layer.given = torch.randn(9, 5)
    pack(layer.eval(), packed)
    with torch.inference_mode():
        kernel = layer.kernel_for(layer.given)
        assert kernel is not None
        torch.testing.assert_close(kernel(layer.given, relu=True), plain(layer).relu())


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: next(layer.parameters()).mul_(2),
        lambda layer: layer.load_state_dict({k: 2 * v for k, v in layer.state_dict().items()}),
        lambda layer: layer.load_state_dict({k: 2 * v for k, v in layer.state_dict().items()}, assign=True),
    ],
    ids=["in place", "loaded", "assigned"],
)
def test_changed_weights_are_seen(layer: Any, change: Callable[[Any], object]) -> None:
    before = result(layer)
    with torch.no_grad():
        change(layer)
    assert not uses_kernel(layer)
    torch.testing.assert_close(result(layer), without_kernel(layer), rtol=0, atol=0)
    assert not torch.allclose(result(layer), before)
    pack(layer)
    assert uses_kernel(layer)
    torch.testing.assert_close(result(layer), plain(layer), rtol=1e-5, atol=1e-6)


def test_statistics_of_the_norm_are_weights() -> None:
    layer = ConvNorm(4, 6)
    layer.given = torch.randn(2, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    accelerate(layer.eval(), kernels=True)
    assert layer.norm.running_var is not None
    layer.norm.running_var.fill_(4)
    assert not uses_kernel(layer)


def test_not_in_training_nor_for_gradients(layer: Any) -> None:
    assert layer.kernel_for(layer.given) is None  # gradients are on
    layer(layer.given).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.train()
    assert not uses_kernel(layer)


def test_another_precision_is_left_alone(layer: Any) -> None:
    layer.double()
    layer.given = layer.given.double()
    pack(layer)
    assert not uses_kernel(layer)
    assert result(layer).dtype == torch.float64


def test_weights_that_do_not_tell_of_changes_are_not_packed() -> None:
    with torch.inference_mode():
        layer = FastLinear(5, 7).eval()
    layer.given = torch.randn(9, 5)
    pack(layer)
    assert not uses_kernel(layer)


def test_a_processor_without_a_rule_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FastLinear(5, 7).eval()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    pack(layer)
    assert isinstance(layer._kernel, kernels.PlainLinearKernel)
    pack(layer, True)
    assert isinstance(layer._kernel, kernels.LinearKernel)


def test_saved_and_copied_without(layer: Any) -> None:
    state = layer.state_dict()
    assert all(isinstance(value, Tensor) and value.layout == torch.strided for value in state.values())
    assert pickle.loads(pickle.dumps(layer))._kernel is None
    torch.testing.assert_close(plain(layer), result(layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4)], ids=["rows", "frames"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_large_products(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = FastLinear(WEIGHTS // 256, 256, bias)
    given, grad = torch.randn(*shape, layer.in_features), torch.randn(*shape, 256)
    results = []
    for dtype in (torch.float32, torch.float64):
        mine, rows = copy.deepcopy(layer).to(dtype), given.detach().to(dtype, copy=True).requires_grad_()
        out = mine(rows)
        assert (type(out.grad_fn).__name__ == "_PackedProductBackward") == (dtype == torch.float32)
        out.backward(grad.to(dtype))
        results.append([out.detach(), rows.grad, *(p.grad for p in mine.parameters())])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(
            mine.double(), reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max())
        )
