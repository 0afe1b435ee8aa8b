"""With SpeechBrain's weights copied in, our encoders return SpeechBrain's embeddings and gradients."""

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torch import Tensor, nn

from speakerverif.encoders import ecapa

NUM_MELS = 20
NUM_FRAMES = torch.tensor([60, 23, 41, 9])

# What each piece of a SpeechBrain parameter's name is called here, applied from top to bottom.
ECAPA_NAMES = (
    ("blocks.0.", "input."),
    ("blocks.1.", "blocks.0."),
    ("blocks.2.", "blocks.1."),
    ("blocks.3.", "blocks.2."),
    ("res2net_block.blocks.", "res2.parts."),
    ("tdnn1.", "reduce."),
    ("tdnn2.", "expand."),
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


def renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    # The first three rows rename blocks by number: only at the front, and only once.
    for old, new in table:
        if old.startswith("blocks."):
            if name.startswith(old):
                name = new + name.removeprefix(old)
                table = tuple(row for row in table if not row[0].startswith("blocks."))
                return renamed(name, table)
        else:
            name = name.replace(old, new)
    return name


def copy_weights(source: nn.Module, target: nn.Module, table: tuple[tuple[str, str], ...]) -> None:
    """Load `source`'s parameters and statistics; a kernel of width 1 becomes a matrix."""
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    weights = {renamed(name, table): value for name, value in source.state_dict().items()}
    assert weights.keys() == shapes.keys()
    target.load_state_dict({name: value.reshape(shapes[name]) for name, value in weights.items()})


def randomize_norms(model: nn.Module) -> None:
    """Give every batch norm statistics that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)


@pytest.fixture
def ecapa_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    peer = ECAPA_TDNN(NUM_MELS, channels=[32] * 4 + [48], lin_neurons=12, attention_channels=8, se_channels=8)
    randomize_norms(peer)
    config = ecapa.Config(
        channels=32, mfa_channels=48, embedding_dim=12, attention_channels=8, se_channels=8, padding="reflect"
    )
    ours = ecapa.build(config, NUM_MELS)
    copy_weights(peer, ours, ECAPA_NAMES)
    return peer.eval(), ours.eval()


def alone(peer: nn.Module, features: Tensor) -> Tensor:
    """SpeechBrain's embedding of every utterance by itself."""
    rows = [peer(row[None, :n])[:, 0] for row, n in zip(features, NUM_FRAMES, strict=True)]
    return torch.cat(rows)


def test_ecapa_ragged_batch_equals_each_file_alone(ecapa_pair):
    peer, ours = ecapa_pair
    features = torch.randn(len(NUM_FRAMES), int(NUM_FRAMES.max()), NUM_MELS)
    torch.testing.assert_close(ours(features, NUM_FRAMES), alone(peer, features), atol=1e-4, rtol=0)


def test_ecapa_training_step_has_the_same_gradients(ecapa_pair):
    peer, ours = (model.train() for model in ecapa_pair)
    features = torch.randn(6, 50, NUM_MELS)
    target = torch.randn(6, 12)
    (ours(features) * target).sum().backward()
    (peer(features)[:, 0] * target).sum().backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in peer.named_parameters():
        ours_now = gradients[renamed(name, ECAPA_NAMES)].grad
        error = (ours_now.flatten() - parameter.grad.flatten()).norm()
        # A bias before a normalisation has no gradient but rounding, hence the absolute part.
        assert error <= 1e-3 * parameter.grad.norm() + 1e-4, name
