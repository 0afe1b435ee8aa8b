"""Whole utterances from features to embeddings: batches of 16 x 3 s, and one of 4 s."""

import copy
import functools
import tempfile
import warnings
from pathlib import Path

import torch

from speakerverif.models._cpu.swap import accelerate
from tools.benches._case import Case, Work, left_out, product
from tools.benches._models import MODELS

SAMPLE_RATE = 16_000


def _inference(model: torch.nn.Module, features: torch.Tensor) -> Work:
    model.eval()
    return torch.inference_mode()(lambda: model(features))


def _onnxruntime(model: torch.nn.Module, features: torch.Tensor, threads: int) -> Work | None:
    """Return a model's plain export run by onnxruntime; None where onnx or onnxruntime is not installed."""
    try:
        import onnx  # noqa: F401  torch's exporter needs it
        import onnxruntime
    except ImportError:
        left_out("onnxruntime")
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model.eval(), (features,), path, dynamo=False, input_names=["features"])
        session = onnxruntime.InferenceSession(path, options)
    given = {"features": features.numpy()}
    return lambda: session.run(None, given)


def _resemblyzer(duration_s: float) -> dict[str, Work]:
    """Return Resemblyzer's own network, a smaller one, on an utterance; empty where it is not installed."""
    try:
        from resemblyzer import VoiceEncoder
    except ImportError:
        left_out("resemblyzer")
        return {}
    encoder = VoiceEncoder("cpu", verbose=False)
    _, parts = VoiceEncoder.compute_partial_slices(int(duration_s * SAMPLE_RATE), 1.3, 0.75)  # its defaults
    return {"resemblyzer": _inference(encoder, torch.randn(len(parts), parts[0].stop - parts[0].start, 40))}


def _case(threads: int, name: str, batch: int, frames: int) -> Case:
    torch.manual_seed(0)
    models = MODELS[name]()
    features = torch.randn(batch, frames, 80)
    plain = copy.deepcopy(models.ours)
    packed, unpacked = copy.deepcopy(plain), copy.deepcopy(plain)
    accelerate(models.ours, kernels=True)  # as `load_model` does
    accelerate(packed, kernels=True, pack_products=True)
    accelerate(unpacked, kernels=True, pack_products=False)
    work = models.works(lambda model: _inference(model, features))
    ours = work.pop("ours")
    work["plain layers"] = _inference(plain, features)
    work["products packed"] = _inference(packed, features)
    work["products not packed"] = _inference(unpacked, features)
    exported, title = models.speechbrain, "speechbrain in onnxruntime"
    if exported is None and models.width is None:  # no peer has this network: our own export
        exported, title = copy.deepcopy(plain), "ours in onnxruntime"
    if exported is not None and (session := _onnxruntime(exported, features, threads)) is not None:
        work[title] = session
    if batch == 1:
        work |= _resemblyzer(frames / 100)
    total = models.gflop(features, _inference)
    limits = {"product": product(total)}
    if models.width is not None:
        limits["product of its size"] = product(total, batch * frames, models.width)
    return Case(ours, work, limits)


CASES = {
    f"{name}, {batch} x {frames / 100:g} s": functools.partial(_case, name=name, batch=batch, frames=frames)
    for name in ("ecapa C=1024", "ecapa C=512", "xvector", "resnet34")
    for batch, frames in ((16, 300), (1, 400))
}
