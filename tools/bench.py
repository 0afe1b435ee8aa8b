"""Measure speed beside other software: medians of interleaved runs, and shares of a large product's rate.

    python tools/bench.py encoder_training --threads 2 --json speed.json
    python tools/bench.py --list

Seconds on a shared machine mean little. What carries over are the ratios: a peer's time over ours, and the
rate of our arithmetic over that of a 2048 x 2048 product run in the same round. On a busy machine take
`--threads 1 --clock cpu`: processor time of one thread does not count the waiting. Peers that are not
installed are left out, and named.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from speakerverif.encoders import ecapa, xvector

Work = Callable[[], object]
PRODUCT_SIZE = 2048


@dataclass(frozen=True)
class Case:
    """The same work by us and by peers; `gflop` is counted from our model."""

    name: str
    ours: Work
    peers: dict[str, Work]
    gflop: float


def _step(model: torch.nn.Module, features: torch.Tensor) -> Work:
    """Return a training step without its optimiser: forward, backward."""

    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model(features).square().mean().backward()

    return run


def _inference(model: torch.nn.Module, features: torch.Tensor) -> Work:
    model.eval()
    return torch.inference_mode()(lambda: model(features))


def _gflop(work: Work) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def _ecapa(channels: int, mfa_channels: int) -> dict[str, torch.nn.Module]:
    """Return our ECAPA-TDNN and its peers, of the same architecture."""
    config = ecapa.Config(channels=channels, mfa_channels=mfa_channels, padding="reflect")
    models: dict[str, torch.nn.Module] = {"ours": ecapa.build(config, 80)}
    try:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    except ImportError:
        print("left out: speechbrain is not installed", file=sys.stderr)
    else:
        models["speechbrain"] = ECAPA_TDNN(80, channels=[channels] * 4 + [mfa_channels])
    return models


def _xvector() -> dict[str, torch.nn.Module]:
    """Return our x-vector and its peers, of the same architecture."""
    config = xvector.Config(padding="reflect", activation="leaky_relu")
    models: dict[str, torch.nn.Module] = {"ours": xvector.build(config, 80)}
    try:
        from speechbrain.lobes.models.Xvector import Xvector
    except ImportError:
        print("left out: speechbrain is not installed", file=sys.stderr)
    else:
        models["speechbrain"] = Xvector(in_channels=80)
    return models


def _onnxruntime(model: torch.nn.Module, features: torch.Tensor, threads: int) -> dict[str, Work]:
    """Return a peer's own export run by onnxruntime; empty where the tools for that are not installed."""
    try:
        import onnxruntime
    except ImportError:
        print("left out: onnxruntime is not installed", file=sys.stderr)
        return {}
    import io

    buffer = io.BytesIO()
    torch.onnx.export(model.eval(), (features,), buffer, dynamo=False, input_names=["features"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(buffer.getvalue(), options)
    given = {"features": features.numpy()}
    return {"speechbrain in onnxruntime": lambda: session.run(None, given)}


def encoder_inference(threads: int) -> Iterator[Case]:
    """Whole utterances to embeddings: batches of 16 x 3 s, and one of 4 s."""
    for label, build in (
        ("ecapa C=1024", lambda: _ecapa(1024, 3072)),
        ("ecapa C=512", lambda: _ecapa(512, 1536)),
        ("xvector", _xvector),
    ):
        models = build()
        for batch, frames in ((16, 300), (1, 400)):
            features = torch.randn(batch, frames, 80)
            work = {name: _inference(model, features) for name, model in models.items()}
            peer = models.get("speechbrain")
            # An x-vector of SpeechBrain draws noise as it runs, which its export does not carry.
            exported = _onnxruntime(peer, features, threads) if peer and label != "xvector" else {}
            ours = work.pop("ours")
            yield Case(f"{label}, {batch} x {frames} frames", ours, work | exported, _gflop(ours))


def encoder_training(threads: int) -> Iterator[Case]:
    """A training step, forward and backward: 32 crops of 3 s at C=256, of 2 s else."""
    for label, build, frames in (
        ("ecapa C=256, MFA 768", lambda: _ecapa(256, 768), 300),
        ("ecapa C=256, MFA 1536", lambda: _ecapa(256, 1536), 300),
        ("ecapa C=512", lambda: _ecapa(512, 1536), 200),
        ("ecapa C=1024", lambda: _ecapa(1024, 3072), 200),
        ("xvector", _xvector, 200),
    ):
        features = torch.randn(32, frames, 80)
        work = {name: _step(model, features) for name, model in build().items()}
        ours = work.pop("ours")
        yield Case(f"{label}, 32 x {frames} frames", ours, work, _gflop(ours))


SUITES = {suite.__name__: suite for suite in (encoder_inference, encoder_training)}


def measure(case: Case, rounds: int, clock: Callable[[], float]) -> dict:
    """Return the case's record: median seconds of each contender, run in turn after one warm-up each."""
    factor = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE)
    contenders: dict[str, Work] = {"ours": case.ours, **case.peers, "product": lambda: factor @ factor}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            start = clock()
            work()
            if turn:
                seconds[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    limit = 2 * PRODUCT_SIZE**3 / 1e9 / medians.pop("product")
    return {
        "case": case.name,
        "gflop": round(case.gflop, 2),
        "seconds": medians,
        "limit_gflop_per_s": limit,
        "share_of_limit": case.gflop / medians["ours"] / limit,
        "speedup": {name: medians[name] / medians["ours"] for name in case.peers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", help="which suites to run; none: all")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path, help="write the records here")
    parser.add_argument("--list", action="store_true", help="name the suites")
    args = parser.parse_args()
    if args.list:
        for name, suite in SUITES.items():
            print(f"{name:20} {suite.__doc__}")
        return
    for name in args.suites:
        if name not in SUITES:
            parser.error(f"{name}: not one of {', '.join(SUITES)}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    records = []
    for name in args.suites or SUITES:
        for case in SUITES[name](args.threads):
            if args.only not in case.name:
                continue
            record = {"suite": name, **measure(case, args.rounds, clock)}
            records.append(record)
            against = "  ".join(f"{peer} x {ratio:.2f}" for peer, ratio in record["speedup"].items())
            share, took = record["share_of_limit"], record["seconds"]["ours"]
            print(f"{case.name:38} {took:7.3f} s  {share:4.0%} of limit  {against}", flush=True)
    if args.json:
        setting = {"threads": args.threads, "clock": args.clock, "torch": torch.__version__}
        args.json.write_text(json.dumps({"setting": setting, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
