"""What every encoder promises: each file in `encoders/` is found and held to it."""

import copy
import dataclasses
import importlib
import math
import pkgutil
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speakerverif._util import toml
from speakerverif.errors import InputError
from speakerverif.models import encoders
from speakerverif.models._cpu.frames import _ShiftedProducts
from speakerverif.models._cpu.swap import accelerate, restore
from speakerverif.models.encoders import ecapa, redimnet, redimnet2, repvgg, xvector
from speakerverif.models.encoders._maps import MapConv
from speakerverif.models.encoders._tdnn import TimeConv
from tests import map_references as maps
from tests import network_references as nets

NUM_MELS = 80
# `test_self_supervised` holds the encoder over samples to the same.
NAMES = sorted(
    m.name
    for m in pkgutil.iter_modules(encoders.__path__)
    if not m.name.startswith("_") and m.name != "self_supervised"
)
# The settings that the encoders here differ by, beside every encoder's own defaults.
SMALL: dict[str, Any] = {
    "channels": 16,
    "mfa_channels": 24,
    "attention_channels": 8,
    "se_channels": 4,
    "embedding_dim": 6,
}
NARROW = {  # those whose full width would take seconds
    "eres2netv2": {"channels": 8},
    "redimnet": {"size": "B0"},
    "campplus": {"head_channels": 4, "channels": 8, "growth": 4, "bottleneck_channels": 8},
    "resnet": {"channels": 8},
    "ensemble": {
        "members": {"one": {"name": "ecapa", **SMALL}, "other": {"name": "xvector", "channels": 16}}
    },
    "resnet_se": {"widths": (8, 8, 16, 16)},
    "simam_resnet": {"channels": 4},
    "res2net": {"channels": 8},
    "gemini_dfresnet": {"channels": 4, "depth": 60},
    "repvgg": {
        "blocks": (1, 1, 1, 1),
        "widths": (4, 4, 8, 8),
        "second_branch": "dilated",
        "excitation": True,
    },
    "resnet_se34l": {"channels": 8, "blocks": (1, 1, 1, 1)},
    "redimnet2": {"size": "B0", "head_channels": 5, "group_norm": True},  # and `narrow_redimnet2`
    "mhfa": {"layers": 5, "heads": 3, "compression": 8, "embedding_dim": 6},
    "mfa": {"layers": 5, "adapter_channels": 8, "embedding_dim": 6},
    "titanet": {"channels": 16, "pooling_channels": 24, "kernels": (5,), "repeats": 2, "dropout": 0.0},
}
MELS = {"redimnet2": redimnet2.MELS, "resnet_se34l": 16, "repvgg": 24}
VARIANTS = [
    *((name, NARROW.get(name, {})) for name in NAMES),
    ("ecapa", {**SMALL, "padding": "reflect", "sum_inputs": True, "final_norm": True}),
    ("ecapa", {**SMALL, "mfa_norm": False, "attention_norm": False, "unbiased_context": True}),
    ("ecapa", {**SMALL, "global_context": False, "res2_scale": 4}),
    ("xvector", {"channels": 16, "pooling_channels": 24, "padding": "reflect", "activation": "leaky_relu"}),
    ("xvector", {"channels": 16, "pooling_channels": 24, "norm_affine": False, "segment_layers": 2}),
    ("xvector", {"channels": 16, "pooling_channels": 24, "norm": False, "projection_channels": 12}),
    ("eres2netv2", {"channels": 4, "base_width": 24, "scale": 4, "expansion": 4, "embedding_dim": 6}),
    ("eres2netv2", {"channels": 4, "base_width": 32, "fused_stages": 4, "segment_layers": 2}),
    (
        "redimnet",
        {"size": "B1", "segment_layers": 2},
    ),  # stages of stride 3, and some without a block over time
    ("resnet", {"channels": 4, "depth": 18, "pooling": "attentive", "segment_layers": 2}),
    ("ensemble", {"members": {"only": {"name": "ecapa", **SMALL}}, "whiten": True}),
    ("resnet_se", {"widths": (2, 4, 4, 4), "order": "preactivated", "excited_stages": 2, "reduction": 1}),
    ("resnet_se", {"widths": (8, 8, 8, 16), "blocks": (1, 2, 1, 1), "deviation": False, "final_norm": True}),
    ("resnet", {"channels": 2, "depth": 50, "pooling": "multi_query", "embedding_dim": 6}),
    ("res2net", {"channels": 8, "scale": 4, "expansion": 4, "pooling": "attentive", "segment_layers": 2}),
]


def count_parameters(name: str, num_mels: int = 80, **settings: Any) -> int:
    module = importlib.import_module(f"speakerverif.models.encoders.{name}")
    with torch.device("meta"):  # no memory, no initial values
        return sum(p.numel() for p in module.build(module.Config(**settings), num_mels).parameters())


@pytest.fixture
def narrow_redimnet2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of one stage with one block: no setting makes the published ones smaller."""
    stages = (redimnet2.Stage(2, 4, 1, 2.0, 36),)
    monkeypatch.setitem(redimnet2.SIZES, "B0", redimnet2.Size(2, stages))


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}-{VARIANTS.index(v)}")
def plain(request: pytest.FixtureRequest, narrow_redimnet2: None) -> Any:
    """An encoder of plain layers; its class follows from its name."""
    name, settings = request.param
    torch.manual_seed(0)
    num_mels = redimnet.SIZES[settings["size"]].mels if name == "redimnet" else MELS.get(name, NUM_MELS)
    model: Any = encoders.build({"name": name, **settings}, num_mels)
    model.num_mels = num_mels
    for norm in model.modules():  # as after some training, so that an offset reaches the padding
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.normal_(norm.bias, 0, 0.3)
    return model


@pytest.fixture(params=["plain", "fast"])
def encoder(request: pytest.FixtureRequest, plain: Any) -> Any:
    """The encoder as it is, and with the fast layers that a CPU gets."""
    if request.param == "fast":
        accelerate(plain)
    return plain


def features(*num_frames: int, num_mels: int = NUM_MELS) -> tuple[Tensor, Tensor]:
    """Random features, with large values where no encoder may look."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(len(num_frames), max(num_frames), num_mels, generator=generator)
    for row, n in zip(rows, num_frames, strict=True):
        row[n:] = 100
    return rows, torch.tensor(num_frames)


def test_shape_and_dtype(encoder: Any) -> None:
    rows, _ = features(20, 20, 20, num_mels=encoder.num_mels)
    assert encoder(rows).shape == (3, encoder.embedding_dim)
    assert encoder(rows).dtype == torch.float32


def test_unknown_key_is_an_error() -> None:
    for name in NAMES:
        module = importlib.import_module(f"speakerverif.models.encoders.{name}")
        with pytest.raises(InputError, match="no_such_key"):
            toml.from_dict(module.Config, {"no_such_key": 1}, name)


def test_every_parameter_has_a_finite_gradient(encoder: Any) -> None:
    rows, num_frames = features(30, 1, 17, num_mels=encoder.num_mels)
    (encoder(rows, num_frames) * torch.randn(3, encoder.embedding_dim)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_swap_changes_no_embedding(plain: Any) -> None:
    rows, num_frames = features(30, 1, 17, num_mels=plain.num_mels)
    plain.eval()
    for options in ({}, {"pack_products": True}, {"pack_products": False}):
        fast = copy.deepcopy(plain)
        accelerate(fast, kernels=bool(options), **options)
        assert any(getattr(module, "_kernel", None) is not None for module in fast.modules()) == bool(options)
        with torch.inference_mode():
            for values in ((rows, num_frames), (rows[:1], None)):
                expected = plain(*values)
                bound = 1e-5 * float(expected.abs().max())
                torch.testing.assert_close(fast(*values), expected, rtol=0, atol=bound)


def test_the_swap_changes_no_gradient(plain: Any) -> None:
    """In float64, where nothing but a mistake makes a difference."""
    rows, num_frames = features(30, 5, 17, num_mels=plain.num_mels)
    plain.double()
    fast = copy.deepcopy(plain)
    accelerate(fast)
    weights = torch.randn(3, plain.embedding_dim, dtype=torch.float64)
    for training in (False, True):
        for lengths in (None, num_frames):
            gradients = []
            for model in (plain, fast):
                model.train(training).zero_grad()
                (model(rows.double(), lengths) * weights).sum().backward()
                gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            assert (gradients[1] - gradients[0]).norm() < 1e-8 * gradients[0].norm()


def test_the_swap_keeps_names_and_can_be_taken_back(plain: Any) -> None:
    state, classes = plain.state_dict(), [type(module) for module in plain.modules()]
    accelerate(plain, kernels=True)
    assert [type(module) for module in plain.modules()] != classes
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    restore(plain)
    assert [type(module) for module in plain.modules()] == classes and list(plain.state_dict()) == list(state)
    assert not any("_kernel" in vars(module) for module in plain.modules())


@pytest.mark.parametrize("length", [1, 25])
def test_constant_frames_are_finite(encoder: Any, length: int) -> None:
    rows = torch.randn(3, 1, encoder.num_mels).expand(-1, length, -1).clone().requires_grad_()
    (encoder(rows) * torch.randn(3, encoder.embedding_dim)).sum().backward()
    assert rows.grad is not None and rows.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_padding_never_trains(encoder: Any) -> None:
    """In training mode too, batch statistics and gradients see real frames only."""
    rows, num_frames = features(30, 12, 17, num_mels=encoder.num_mels)
    rows.requires_grad_()
    embeddings = encoder(rows, num_frames)
    embeddings.sum().backward()
    other = rows.detach().clone()
    assert rows.grad is not None
    for row, gradient, n in zip(other, rows.grad, num_frames, strict=True):
        row[n:] = -3
        assert gradient[n:].abs().max() == 0 if n < 30 else True
    # CAM++ ends with a batch norm, which makes much of the rounding where three embeddings are alike.
    bound = 5e-5 if type(encoder).__module__.endswith("campplus") else 1e-5
    torch.testing.assert_close(encoder(other, num_frames), embeddings, atol=bound, rtol=bound)
    longer = nn.functional.pad(other, (0, 0, 0, 11))
    torch.testing.assert_close(encoder(longer, num_frames), embeddings, atol=bound, rtol=1e-4)


@torch.no_grad()
def test_ragged_batch_equals_each_row_alone(encoder: Any) -> None:
    encoder.eval()
    rows, num_frames = features(40, 9, 23, 1, 3, num_mels=encoder.num_mels)
    together = encoder(rows, num_frames)
    for row, n, embedding in zip(rows, num_frames, together, strict=True):
        torch.testing.assert_close(encoder(row[None, :n])[0], embedding, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoder(row[None, :n], n[None])[0], embedding, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ragged", [True, False])
def test_evaluation_without_gradients_gives_the_same(encoder: Any, ragged: bool) -> None:
    """It may overwrite what it made itself, but nothing that was given."""
    encoder.eval()
    rows, num_frames = features(40, 9, 23, 1, num_mels=encoder.num_mels)
    given, lengths = rows.clone(), num_frames if ragged else None
    expected = encoder(rows, lengths).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(encoder(rows, lengths).clone(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(rows, given)


@torch.no_grad()
def test_new_weights_are_used_at_once(encoder: Any) -> None:
    """However they come: nothing that follows from weights is kept."""
    encoder.eval()
    rows, _ = features(20, 20, num_mels=encoder.num_mels)
    encoder(rows)
    other = copy.deepcopy(encoder)
    for value in other.state_dict().values():
        if value.is_floating_point():
            value.mul_(1.1)  # in place, as an optimiser does
    for old, new in zip(encoder.parameters(), other.parameters(), strict=True):
        old.data = new.data.clone()  # behind autograd's back
    for old, new in zip(encoder.buffers(), other.buffers(), strict=True):
        old.copy_(new)
    expected = copy.deepcopy(encoder)(rows)
    assert torch.equal(encoder(rows), expected)
    assert torch.equal(other(rows), expected)
    other.load_state_dict(encoder.state_dict(), assign=True)
    torch.testing.assert_close(other(rows), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_evaluation_is_stateless(encoder: Any) -> None:
    encoder.eval()
    rows, _ = features(20, 20, num_mels=encoder.num_mels)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = encoder(rows)
    encoder(rows + 1)
    assert torch.equal(encoder(rows), first)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@torch.no_grad()
def test_bfloat16_autocast_stays_close(encoder: Any) -> None:
    encoder.eval()
    rows, num_frames = features(30, 12, num_mels=encoder.num_mels)
    exact = encoder(rows, num_frames)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(rows, num_frames).float()
    assert nn.functional.cosine_similarity(exact, rough).min() > 0.99


def test_bfloat16_autocast_trains(encoder: Any) -> None:
    rows, num_frames = features(10, 5, 10, num_mels=encoder.num_mels)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = encoder(rows, num_frames)
    (embeddings.float() * torch.randn(embeddings.shape)).sum().backward()
    assert embeddings.isfinite().all()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


@torch.no_grad()
@pytest.mark.parametrize("ragged", [True, False])
def test_maps_stay_channels_last(plain: Any, ragged: bool) -> None:
    """Another order gives the same figures, but slowly."""
    wrong = []

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if not given[0].is_contiguous(memory_format=torch.channels_last):
            wrong.append((module, given[0].stride()))

    accelerate(plain)
    for module in plain.modules():
        if isinstance(module, MapConv):
            module.register_forward_pre_hook(look)
    rows, num_frames = features(9, 5, num_mels=plain.num_mels)
    plain.eval()(rows, num_frames if ragged else None)
    assert not wrong


def time_conv(fast: bool, *args: Any, **options: Any) -> TimeConv:
    conv = TimeConv(*args, **options)
    if fast:
        accelerate(conv)
    return conv


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "reflect", "none"])
def test_time_conv_equals_torch(padding: str, fast: bool) -> None:
    torch.manual_seed(0)
    conv = time_conv(fast, 5, 7, 3, 4, padding).double()
    frames = torch.randn(2, 13, 5, dtype=torch.float64)
    image = frames.transpose(1, 2)
    if padding != "none":
        image = nn.functional.pad(image, (4, 4), mode="constant" if padding == "zeros" else "reflect")
    expected = nn.functional.conv1d(image, conv.weight, conv.bias, dilation=4).transpose(1, 2)
    torch.testing.assert_close(conv(frames), expected)


def test_kernels_lie_tap_by_tap() -> None:
    """A step keeps the layout, a copy has it, and a kernel in another one gives the same."""
    conv = time_conv(True, 3, 4, 5, 1, "zeros")
    frames = torch.randn(2, 9, 3)
    conv(frames).square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.permute(2, 0, 1).is_contiguous()
    for kernel in (conv.weight, copy.deepcopy(conv).weight, conv.weight.detach() - conv.weight.grad):
        assert kernel.permute(2, 0, 1).is_contiguous()
    expected = conv(frames)
    conv.weight.data = conv.weight.data.contiguous()
    torch.testing.assert_close(conv(frames), expected)


def test_time_conv_gradient() -> None:
    frames = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def product(*given: Tensor) -> Any:
        return _ShiftedProducts.apply(*given, 2)  # type: ignore[no-untyped-call]

    assert torch.autograd.gradcheck(product, (frames, weight, bias))


@pytest.mark.parametrize("fast", [True, False])
def test_reflection_repeats_in_short_utterances(fast: bool) -> None:
    conv = time_conv(fast, 1, 1, 3, 2, "reflect")
    nn.init.ones_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    # Frames 10, 20 continue as ... 10 20 [10 20] 10 20 ...; two to the left and right of each is itself.
    assert conv(torch.tensor([[[10.0], [20.0]]])).flatten().tolist() == [30.0, 60.0]


def test_xvector_without_padding_refuses_what_is_too_short() -> None:
    model = xvector.build(xvector.Config(padding="none"), NUM_MELS).eval()
    rows, num_frames = features(20, 14)
    with pytest.raises(InputError, match="14 frames is too short"):
        model(rows, num_frames)
    assert model(rows[:, :15]).isfinite().all()


def test_xvector_without_padding_is_exact_in_a_ragged_batch() -> None:
    model = xvector.build(xvector.Config(channels=16, padding="none"), NUM_MELS).eval()
    rows, num_frames = features(30, 15, 22)
    for row, n, embedding in zip(rows, num_frames, model(rows, num_frames), strict=True):
        torch.testing.assert_close(model(row[None, :n])[0], embedding, atol=1e-5, rtol=1e-4)


def test_parameter_counts_are_the_other_projects() -> None:
    """Counted from their code at 80 mels, embedding model only."""
    wespeaker = {"mfa_norm": False, "attention_norm": False}
    taoruijie = {"attention_channels": 256, "mfa_norm": False, "final_norm": True, "sum_inputs": True}
    assert count_parameters("ecapa", channels=512) == 6_194_048
    assert count_parameters("ecapa", channels=512, **wespeaker) == 6_190_720
    assert count_parameters("ecapa", channels=1024, mfa_channels=3072) == 20_767_552
    assert count_parameters("ecapa", channels=1024) == 14_660_416
    assert count_parameters("ecapa", channels=1024, **wespeaker) == 14_657_088
    assert count_parameters("ecapa", channels=1024, **taoruijie) == 15_444_544
    assert count_parameters("xvector") == 4_354_964
    assert count_parameters("xvector", norm_affine=False, segment_layers=2) == 4_610_524
    assert count_parameters("xvector", norm_affine=False) == 4_347_868
    assert count_parameters("campplus") == 7_176_224
    assert count_parameters("eres2netv2") == 17_859_632
    assert count_parameters("eres2netv2", channels=32, base_width=32, fused_stages=4) == 6_610_688
    assert count_parameters("resnet_se", 64) == 8_028_492
    preactivated: dict[str, Any] = {
        "order": "preactivated",
        "excited_stages": 2,
        "reduction": 1,
        "final_norm": True,
    }
    widths = (128, 128, 256, 256)
    assert count_parameters("resnet_se", widths=widths, embedding_dim=256, **preactivated) == 15_438_336
    assert count_parameters("resnet") == 6_634_336
    assert count_parameters("resnet", depth=221) == 23_792_224
    assert count_parameters("resnet", depth=293) == 28_626_016
    assert count_parameters("resnet", embedding_dim=192, segment_layers=2) == 6_343_648


@pytest.mark.parametrize(
    ("name", "settings", "shapes", "published"),
    [
        ("simam_resnet", {}, maps.simam_resnet_shapes((3, 4, 6, 3), 64, 80, 256), "25.2"),
        ("simam_resnet", {"depth": 100}, maps.simam_resnet_shapes((6, 16, 24, 3), 64, 80, 256), "50.2"),
        ("res2net", {}, maps.res2net_shapes(32, 32, 2, 2, 192, second=False), ""),
        ("gemini_dfresnet", {"depth": 60}, maps.gemini_dfresnet_shapes((3, 3, 9, 3), 32, 80, 256), "4.05"),
        ("gemini_dfresnet", {}, maps.gemini_dfresnet_shapes((3, 3, 27, 3), 32, 80, 256), "6.53"),
        ("gemini_dfresnet", {"depth": 183}, maps.gemini_dfresnet_shapes((3, 8, 45, 3), 32, 80, 256), "9.20"),
    ],
)
def test_parameter_counts_are_those_of_the_checkpoints(
    name: str, settings: dict[str, Any], shapes: maps.Shapes, published: str
) -> None:
    """The tensors of WeSpeaker's checkpoints, and its tables' counts in millions where they have one."""
    weights = (shape for tensor, shape in shapes.items() if "running" not in tensor and "num_b" not in tensor)
    count = count_parameters(name, **settings)
    assert count == sum(map(math.prod, weights))
    if published:
        decimals = len(published.partition(".")[2])
        assert f"{count / 1e6:.{decimals}f}" == published


@pytest.mark.parametrize("form", ["trained", "fused"])
@pytest.mark.parametrize("branch", ["pointwise", "dilated"])
def test_parameter_counts_of_repvgg(form: str, branch: str) -> None:
    """The tensors of WeSpeaker's REPVGG_TINY_A0, of whose fused form its table has 6.26 M."""
    options = {"dilated": branch == "dilated", "fused": form == "fused"}
    shapes = nets.repvgg_shapes((3, 4, 23, 3), (32, 64, 128, 256), 256, 80, **options)
    count = count_parameters("repvgg", second_branch=branch, fused=form == "fused")
    assert count == nets.weights_of(shapes)
    if (form, branch) == ("fused", "pointwise"):
        assert f"{count / 1e6:.2f}" == "6.26"


def test_parameter_counts_of_the_papers() -> None:
    """The figures that are published, in millions; TitaNet-L's has the layer of 7,205 classes."""
    assert f"{count_parameters('resnet_se34l', 40) / 1e6:.1f}" == "1.4"
    assert f"{count_parameters('ecapa', mfa_norm=False, pooling='xi') / 1e6:.1f}" == "5.9"
    assert count_parameters("titanet", channels=256) == 6_825_264
    shapes = nets.titanet_shapes(80, 1024, (7, 11, 15), 3, 3072, 192)
    assert count_parameters("titanet") == nets.weights_of(shapes) == 22_122_288
    assert (count_parameters("titanet") + 7205 * 192) // 10**6 == 23


@pytest.mark.parametrize(
    ("size", "published", "head_channels"),
    [
        ("B0", 1.1, 64),
        ("B1", 2.1, 0),
        ("B2", 3.6, 0),
        ("B3", 4.1, 0),
        ("B4", 6.6, 0),
        ("B5", 8.9, 256),
        ("B6", 12.3, 224),
    ],
)
def test_parameter_counts_of_redimnet2(size: str, published: float, head_channels: int) -> None:
    """The authors' table, which cuts its figures off after the first decimal."""
    count = count_parameters("redimnet2", 72, size=size, head_channels=head_channels)
    assert count // 100_000 == round(10 * published)
    channels, stages = redimnet2.SIZES[size]
    given = [(s.stride, s.time_stride, s.blocks, s.expansion, s.reduction) for s in stages]
    head = (head_channels, 1, 1) if head_channels else ()
    # The checkpoints have a weight of the first stage's only input, which is always 1.
    assert count == nets.weights_of(nets.redimnet2_shapes(channels, given, 192, head, False)) - 72 * channels


@pytest.mark.parametrize("branch", ["pointwise", "dilated"])
@pytest.mark.parametrize("groups", [1, 2])
def test_repvgg_is_the_same_when_fused(branch: repvgg.SecondBranch, groups: int) -> None:
    torch.manual_seed(0)
    config = repvgg.Config((2, 2, 1, 1), (8, 8, 12, 12), branch, groups)  # type: ignore[arg-type]
    model = repvgg.build(config, 24).eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None and norm.running_var is not None
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.bias, 0, 0.3)
    rows, num_frames = features(30, 9, 1, num_mels=24)
    with torch.no_grad():
        expected = model(rows, num_frames)
        for block in model.blocks:
            assert isinstance(block, repvgg.RepVGGBlock)
            block.fuse()
        torch.testing.assert_close(model(rows, num_frames), expected, atol=1e-5, rtol=1e-5)
    single = repvgg.build(dataclasses.replace(config, fused=True), 24)
    single.load_state_dict(model.state_dict())


def test_redimnet2_leaves_frames_out_that_fill_no_group_of_four(narrow_redimnet2: None) -> None:
    model = encoders.build({"name": "redimnet2", "size": "B0"}, redimnet2.MELS).eval()
    rows, _ = features(15, num_mels=redimnet2.MELS)
    with torch.no_grad():
        torch.testing.assert_close(model(rows), model(rows[:, :12]))
        zeros = nn.functional.pad(rows[:, :3], (0, 0, 0, 1))
        torch.testing.assert_close(model(rows[:, :3]), model(zeros))
    with pytest.raises(InputError, match="num_mels = 72"):
        redimnet2.build(redimnet2.Config(), 80)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("B0", 1_001_850),
        ("B1", 2_123_480),
        ("B2", 4_888_240),
        ("B3", 3_220_412),
        ("B4", 6_432_304),
        ("B5", 7_650_544),
        ("B6", 15_006_256),
    ],
)
def test_parameter_counts_of_redimnet(size: str, count: int) -> None:
    assert count_parameters("redimnet", redimnet.SIZES[size].mels, size=size) == count


def test_the_ports_redimnet_b1_pools_without_context() -> None:
    assert count_parameters("redimnet", 72, size="B1", global_context=False) == 2_123_480 - 864 * 2 * 128


@pytest.mark.parametrize("training", [True, False])
def test_redimnet_excitation_leaves_padding_out(training: bool) -> None:
    torch.manual_seed(0)
    block = redimnet.ResidualBlock(8, 4, redimnet.FrequencyExcitation(6, 5)).train(training)
    maps, num_frames = torch.randn(2, 8, 9, 6), torch.tensor([9, 4])
    maps[1, :, 4:] = 0
    together = block(maps, num_frames)
    longer = block(nn.functional.pad(maps, (0, 0, 0, 7)), num_frames)
    torch.testing.assert_close(longer[:, :, :9], together)
    assert together[1, :, 4:].abs().max() == 0
    if not training:
        torch.testing.assert_close(block(maps[1:, :, :4], None)[0], together[1, :, :4])


def test_redimnet_names_the_number_of_mels_that_it_needs() -> None:
    with pytest.raises(InputError, match="num_mels = 72"):
        redimnet.build(redimnet.Config(), 80)
    with pytest.raises(InputError, match="num_mels = 60"):
        redimnet.build(redimnet.Config(size="B0"), 70)


def test_sum_inputs_feeds_each_block_all_outputs_before_it() -> None:
    model = ecapa.build(ecapa.Config(**SMALL, sum_inputs=True), NUM_MELS).eval()
    seen = []
    for layer in [model.input, *model.blocks]:
        layer.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    model(features(12)[0])
    (_, x0), (in1, x1), (in2, x2), (in3, _) = seen
    torch.testing.assert_close(in1, x0)
    torch.testing.assert_close(in2, x0 + x1)
    torch.testing.assert_close(in3, x0 + x1 + x2)


def test_an_ensemble_averages_the_cosines_of_its_members() -> None:
    torch.manual_seed(0)
    members = {"one": {"name": "ecapa", **SMALL}, "other": {"name": "xvector", "channels": 16}}
    rows, num_frames = features(30, 12)
    for whiten in (False, True):
        model: Any = encoders.build(
            {"name": "ensemble", "members": members, "whiten": whiten}, NUM_MELS
        ).eval()
        alone = [nn.functional.normalize(member(rows, num_frames)) for member in model.members.values()]
        expected = torch.stack([torch.cosine_similarity(e[0], e[1], dim=0) for e in alone]).mean()
        if whiten:
            nn.init.normal_(model.whitening.weight)
            nn.init.normal_(model.whitening.bias)
            whitened = model.whitening(torch.cat(alone, 1) / len(members) ** 0.5)
            expected = (expected + torch.cosine_similarity(whitened[0], whitened[1], dim=0)) / 2
        together = model(rows, num_frames)
        assert together.shape[1] == model.embedding_dim
        torch.testing.assert_close(torch.cosine_similarity(together[0], together[1], dim=0), expected)
    with pytest.raises(InputError, match="ensemble: expected encoders"):
        encoders.build({"name": "ensemble", "members": {}}, NUM_MELS)
    with pytest.raises(InputError, match="unknown name 'ecap'; did you mean 'ecapa'"):
        encoders.build({"name": "ensemble", "members": {"one": {"name": "ecap"}}}, NUM_MELS)


@dataclass(frozen=True)
class OutsideConfig:
    """The settings of an encoder from outside."""


@pytest.mark.parametrize("error", [ValueError("groups"), ZeroDivisionError("heads"), RuntimeError("size 0")])
def test_the_error_of_values_names_the_module_the_place_and_the_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError, match=f"outside.net.*80 mel bands: .*py:[0-9]+: .*Error: {error}"
    ) as raised:
        build_outside(error, monkeypatch)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [TypeError("no such argument"), KeyError("size"), InputError("says it all")]
)
def test_any_other_error_of_an_outside_encoder_comes_through(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(error)) as raised:
        build_outside(error, monkeypatch)
    assert raised.value is error


def build_outside(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build an encoder of an outside module whose `build` raises an error."""

    def build(config: OutsideConfig, num_mels: int) -> nn.Module:
        raise error

    module = types.ModuleType("outside.net")
    vars(module).update(Config=OutsideConfig, build=build)
    monkeypatch.setitem(sys.modules, "outside", types.ModuleType("outside"))
    monkeypatch.setitem(sys.modules, "outside.net", module)
    encoders.build({"name": "outside.net"}, NUM_MELS)
