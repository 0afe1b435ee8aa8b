"""With SpeechBrain's weights copied in, our encoders return SpeechBrain's embeddings and gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.Xvector import Xvector
from torch import nn

from speakerverif.models.encoders import ecapa, xvector

NUM_MELS = 20
NUM_FRAMES = torch.tensor([60, 23, 41, 9])

# What each piece of a SpeechBrain parameter's name is called here: first one beginning, then all that fit.
ECAPA_BLOCKS = (
    ("blocks.0", "input"),
    ("blocks.1", "blocks.0"),
    ("blocks.2", "blocks.1"),
    ("blocks.3", "blocks.2"),
)
ECAPA_PIECES = (
    ("res2net_block.blocks", "res2.parts"),
    ("tdnn1", "reduce"),
    ("tdnn2", "expand"),
    ("se_block.conv1.conv", "se.squeeze"),
    ("se_block.conv2.conv", "se.excite"),
    ("asp.tdnn.conv.conv", "pooling.hidden"),
    ("asp.tdnn.norm.norm", "pooling.norm"),
    ("asp.conv.conv", "pooling.logits"),
    ("asp_bn.norm", "pooling_norm"),
    ("fc.conv", "embedding"),
    ("conv.conv", "affine"),
    ("norm.norm", "norm"),
)
# Each of five layers is convolution, activation, norm; then pooling, and the linear layer.
XVECTOR_BLOCKS = (
    *((f"blocks.{3 * i}.conv", f"frames.{i}.affine") for i in range(5)),
    *((f"blocks.{3 * i + 2}.norm", f"frames.{i}.norm") for i in range(5)),
    ("blocks.16.w", "embedding"),
)
Names = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
ECAPA_NAMES: Names = (ECAPA_BLOCKS, ECAPA_PIECES)
XVECTOR_NAMES: Names = (XVECTOR_BLOCKS, ())


def renamed(name: str, names: Names) -> str:
    blocks, pieces = names
    for old, new in blocks:
        if name.startswith(old + "."):
            name = new + name.removeprefix(old)
            break
    for old, new in pieces:
        name = name.replace(old, new)
    return name


def copy_weights(source: nn.Module, target: nn.Module, names: Names) -> None:
    """Load `source`'s parameters and statistics; a kernel of width 1 becomes a matrix."""
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    weights = {renamed(name, names): value for name, value in source.state_dict().items()}
    assert weights.keys() == shapes.keys()
    target.load_state_dict({name: value.reshape(shapes[name]) for name, value in weights.items()})


def randomize_norms(model: nn.Module) -> None:
    """Give every batch norm statistics that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)


@pytest.fixture
def ecapa_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    peer = ECAPA_TDNN(NUM_MELS, channels=[32] * 4 + [48], lin_neurons=12, attention_channels=8, se_channels=8)
    sizes: dict[str, Any] = {"channels": 32, "mfa_channels": 48, "attention_channels": 8, "se_channels": 8}
    ours = ecapa.build(ecapa.Config(**sizes, embedding_dim=12, padding="reflect"), NUM_MELS)
    randomize_norms(peer)
    copy_weights(peer, ours, ECAPA_NAMES)
    return peer.eval(), ours.eval()


@pytest.fixture
def xvector_pair(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    peer = Xvector(tdnn_channels=[32] * 4 + [48], lin_neurons=12, in_channels=NUM_MELS)
    # Its pooling adds noise to the mean, at evaluation too.
    monkeypatch.setattr(peer.blocks[15], "_get_gauss_noise", lambda shape, device: torch.zeros(shape))
    settings: dict[str, Any] = {"padding": "reflect", "activation": "leaky_relu"}
    ours = xvector.build(
        xvector.Config(channels=32, pooling_channels=48, embedding_dim=12, **settings), NUM_MELS
    )
    randomize_norms(peer)
    copy_weights(peer, ours, XVECTOR_NAMES)
    return peer.eval(), ours.eval()


@pytest.fixture(params=["ecapa", "xvector"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Names]:
    names = {"ecapa": ECAPA_NAMES, "xvector": XVECTOR_NAMES}[request.param]
    return *request.getfixturevalue(f"{request.param}_pair"), names


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_a_ragged_batch_equals_each_file_alone(
    pair: tuple[nn.Module, nn.Module, Names], mode: Callable[[], AbstractContextManager[None]]
) -> None:
    peer, ours, _ = pair
    features = torch.randn(len(NUM_FRAMES), int(NUM_FRAMES.max()), NUM_MELS)
    alone = [peer(row[None, :n])[:, 0] for row, n in zip(features, NUM_FRAMES, strict=True)]
    with mode():  # they go different ways
        together = ours(features, NUM_FRAMES)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_a_training_step_has_the_same_gradients(pair: tuple[nn.Module, nn.Module, Names]) -> None:
    peer, ours, names = pair
    features, target = torch.randn(6, 50, NUM_MELS), torch.randn(6, 12)
    (ours.train()(features) * target).sum().backward()
    (peer.train()(features)[:, 0] * target).sum().backward()
    parameters = dict(ours.named_parameters())
    for name, parameter in peer.named_parameters():
        gradient = parameters[renamed(name, names)].grad
        assert gradient is not None and parameter.grad is not None
        error = (gradient.flatten() - parameter.grad.flatten()).norm()
        # Where a normalisation follows, a bias has no gradient but rounding: hence the absolute part.
        assert error <= 1e-3 * parameter.grad.norm() + 1e-4, name
