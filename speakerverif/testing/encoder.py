"""The contract of encoders."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig, Recipe
from speakerverif.exchange.to_onnx import export_onnx
from speakerverif.models import encoders
from speakerverif.models.folder import ModelFolder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.weights import fingerprint
from speakerverif.testing._checking import (
    check_saving,
    checking,
    described,
    name_of,
    require,
    require_equal,
    require_gradients,
)

PADDING = 100.0  # a value that shows wherever padding has an influence


def check_encoder(
    module: ModuleType | str,
    settings: Mapping[str, Any] | None = None,
    *,
    num_mels: int = 80,
    tolerance: float = 1e-4,
    onnx: bool = False,
) -> None:
    """Check that an encoder keeps its contract; a few seconds for a network of ten million parameters.

    `build(config, num_mels)` returns a module with `embedding_dim` that takes features float32 (batch, frames,
    num_mels) and `num_frames` int64 (batch,) or None, and returns embeddings float32 (batch, embedding_dim). Frames
    beyond `num_frames` have no influence, in training as in evaluation; every parameter gets a finite gradient; in
    evaluation mode nothing is random or remembered, and an utterance's embedding doesn't depend on its neighbours;
    saved and loaded weights give the same embeddings. An encoder that needs more than one frame
    says how many in an attribute `min_frames`.

    Args:
        module: the encoder's module, or its name as in a recipe.
        settings: keys of its `Config` that differ from the defaults.
        num_mels: width of the features.
        tolerance: largest difference that counts as rounding, relative to the largest value of the embeddings.
        onnx: check that it can be exported to ONNX, too. Takes longer, and needs onnx and onnxruntime.

    Raises:
        InputError: a broken promise, named.
    """
    name = name_of("encoder", module)
    table = {"name": name, **(settings or {})}

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return _as_after_training(encoders.build(table, num_mels))

    with checking(f"encoder {name}"):
        encoder = build(seed=0)
        width = getattr(encoder, "embedding_dim", None)
        require(isinstance(width, int), f"embedding_dim: found {width!r}, expected its width as an int")
        min_frames = int(getattr(encoder, "min_frames", 1))
        _check_shapes(encoder, num_mels, min_frames)
        _check_training(encoder, num_mels, min_frames, tolerance)
        _check_evaluation(encoder.eval(), num_mels, min_frames, tolerance)
        other = build(seed=1).eval()
        check_saving(encoder, other, *features(num_mels, min_frames + 9))
        if onnx:
            _check_onnx(table, num_mels)


def features(num_mels: int, *num_frames: int) -> tuple[Tensor, Tensor]:
    """Return random features (batch, frames, num_mels), `PADDING` beyond each row's length, and the lengths."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(len(num_frames), max(num_frames), num_mels, generator=generator)
    for row, length in zip(rows, num_frames, strict=True):
        row[length:] = PADDING
    return rows, torch.tensor(num_frames)


def _as_after_training(encoder: nn.Module) -> nn.Module:
    """Give batch norms the statistics and offsets of a trained network, so that padding isn't zero behind them."""
    for norm in encoder.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.normal_(norm.bias, 0, 0.3)
    return encoder


def _check_shapes(encoder: nn.Module, num_mels: int, min_frames: int) -> None:
    rows, num_frames = features(num_mels, min_frames + 19, min_frames + 5, min_frames + 12)
    for lengths in (None, num_frames):
        embeddings = encoder(rows, lengths)
        expected = (len(rows), encoder.embedding_dim)
        require(
            isinstance(embeddings, Tensor)
            and embeddings.shape == expected
            and embeddings.dtype == torch.float32,
            f"expected embeddings float32 of shape {expected}, found {described(embeddings)}",
        )


def _check_training(encoder: nn.Module, num_mels: int, min_frames: int, tolerance: float) -> None:
    """Check gradients, and that batch statistics and gradients see real frames only."""
    encoder.train()
    rows, num_frames = features(num_mels, min_frames + 29, min_frames, min_frames + 16)
    rows.requires_grad_()

    def embed(values: Tensor, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        embeddings: Tensor = encoder(values, num_frames)
        return embeddings

    embeddings = embed(rows)
    torch.autograd.backward((embeddings * torch.randn_like(embeddings)).sum())
    require_gradients(encoder)
    assert rows.grad is not None
    other = rows.detach().clone()
    for row, length in zip(other, num_frames, strict=True):
        row[length:] = -3
    why = (
        "in training, what lies beyond num_frames changes embeddings: mask it in every layer, batch norms too"
    )
    require_equal(embed(other), embeddings, tolerance, why)
    for gradient, length in zip(rows.grad, num_frames, strict=True):
        require(
            not gradient[length:].any(), "in training, what lies beyond num_frames gets a gradient: mask it"
        )
    if torch.equal(embed(other, seed=1), embed(other)):  # dropout would draw other masks for longer padding
        longer = nn.functional.pad(other, (0, 0, 0, 11), value=PADDING)
        require_equal(embed(longer), embeddings, tolerance, why)
    for length in (min_frames, min_frames + 24):
        constant = torch.randn(3, 1, num_mels).expand(-1, length, -1).clone().requires_grad_()
        encoder.zero_grad()
        (encoder(constant, None) * torch.randn_like(embeddings)).sum().backward()
        assert constant.grad is not None
        require(
            bool(constant.grad.isfinite().all()), f"{length} equal frames get a gradient that is not finite"
        )
        require_gradients(encoder)


@torch.no_grad()
def _check_evaluation(encoder: nn.Module, num_mels: int, min_frames: int, tolerance: float) -> None:
    rows, num_frames = features(num_mels, *(min_frames + more for more in (39, 8, 22, 0, 2)))
    given = rows.clone()
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    together = encoder(rows, num_frames).clone()
    for row, length, embedding in zip(rows, num_frames, together, strict=True):
        for lengths in (None, length[None]):
            alone = encoder(row[None, :length], lengths)[0]
            require_equal(
                embedding,
                alone,
                tolerance,
                f"an utterance of {length} frames has another embedding in a padded batch than alone: frames beyond "
                "num_frames have an influence",
            )
    encoder(rows + 1, num_frames)
    require(torch.equal(encoder(rows, num_frames), together), "in evaluation mode it is random, or remembers")
    changed = [key for key, value in encoder.state_dict().items() if not torch.equal(value, state[key])]
    require(not changed, f"evaluation changes {', '.join(changed)}")
    require(torch.equal(rows, given), "it overwrites the features that it is given")


def _check_onnx(table: dict[str, Any], num_mels: int) -> None:
    recipe = Recipe(features=FeatureConfig(num_mels=num_mels), encoder=table)
    model = SpeakerModel(recipe.features, recipe.encoder).eval()
    folder = ModelFolder(Path(), model, recipe, {}, [], fingerprint(model))
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(folder, Path(scratch) / "model.onnx")
