"""Whole utterances from features to embeddings: batches of 16 x 3 s, and one of 4 s."""

import functools
import io

import torch

from benches._case import Case, Work, gflop, left_out, product
from benches._models import MODELS


def _inference(model: torch.nn.Module, features: torch.Tensor) -> Work:
    model.eval()
    return torch.inference_mode()(lambda: model(features))


def _onnxruntime(model: torch.nn.Module, features: torch.Tensor, threads: int) -> dict[str, Work]:
    """Return a peer's own export run by onnxruntime; empty where the tools for that are not installed."""
    try:
        import onnx  # noqa: F401  torch's exporter needs it
        import onnxruntime
    except ImportError:
        left_out("onnxruntime")
        return {}
    buffer = io.BytesIO()
    torch.onnx.export(model.eval(), (features,), buffer, dynamo=False, input_names=["features"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(buffer.getvalue(), options)
    given = {"features": features.numpy()}
    return {"speechbrain in onnxruntime": lambda: session.run(None, given)}


def _case(threads: int, name: str, batch: int, frames: int) -> Case:
    torch.manual_seed(0)
    models = MODELS[name]()
    features = torch.randn(batch, frames, 80)
    work = {system: _inference(model, features) for system, model in models.items()}
    # An x-vector of SpeechBrain draws noise as it runs, which its export does not carry.
    if "speechbrain" in models and name != "xvector":
        work |= _onnxruntime(models["speechbrain"], features, threads)
    ours = work.pop("ours")
    # The work to do is that of the published graph: what ours saves counts for it.
    return Case(ours, work, {"product": product(gflop(work.get("speechbrain", ours)))})


CASES = {
    f"{name}, {batch} x {frames / 100:g} s": functools.partial(_case, name=name, batch=batch, frames=frames)
    for name in ("ecapa C=1024", "ecapa C=512", "xvector")
    for batch, frames in ((16, 300), (1, 400))
}
