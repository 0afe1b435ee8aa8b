"""Compare training and embedding on a GPU with SpeechBrain, in one run: crops/s, arithmetic, peak memory.

    python tools/gpu_bench.py --json gpu.json
    python tools/gpu_bench.py --device cpu --batch 2 --crop-s 0.5 --classes 12 --seconds 0

Each contender starts from waveforms on the device: features, encoder, AAM-Softmax over all classes, backward and a
step of SGD; or features and encoder alone, in eval mode. Each is tried in float32 (with TF32 products, where the GPU
has them) and, on a GPU, in bfloat16; ours also with its convolutions channels-last, where they are of two dimensions,
and with torch.compile (on a CPU, which takes minutes to compile, only with --compile). Embedding is measured in
batches and one utterance of 4 s at a time, there also as a CUDA graph.

MFU is the arithmetic of products and convolutions, counted from the model as it runs, over that of a large matrix
product of the same precision measured in the same run, not over a figure from a data sheet.
"""

import argparse
import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif import heads
from speakerverif.config import FeatureConfig
from speakerverif.models import encoders, features

RATE, MELS = 16000, 80
SINGLE_S = 4.0
AT_ONCE = 3  # runs of the warm-up, and between two readings of the clock
PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}
HEAD = {"name": "aam_softmax", "margin": 0.2, "scale": 32.0}
ENCODERS: dict[str, dict[str, Any]] = {
    "xvector": {"name": "xvector"},
    "ecapa_512": {"name": "ecapa", "channels": 512, "mfa_channels": 1536},
    "ecapa_1024": {"name": "ecapa", "channels": 1024, "mfa_channels": 3072},
    "resnet34": {"name": "resnet"},
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Work = Callable[[], object]


@dataclass
class System:
    """Parts that are trained: features, encoder and head."""

    front: Callable[[Tensor], Tensor]
    encoder: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    trained: list[nn.Module] = field(default_factory=list)

    def embed(self, waveform: Tensor) -> Tensor:
        """Return (batch, dim)."""
        with torch.no_grad():
            found = self.front(waveform)
        embeddings: Tensor = self.encoder(found)
        return embeddings.flatten(1)


def ours(name: str, classes: int, device: str) -> System:
    """Return our features, encoder and head."""
    filterbank = features.build(FeatureConfig(num_mels=MELS)).to(device)
    encoder = encoders.build(ENCODERS[name], MELS).to(device)
    dim = encoder.embedding_dim
    assert isinstance(dim, int)
    head = heads.build(HEAD, dim, classes).to(device)

    def front(waveform: Tensor) -> Tensor:
        lengths = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
        frames: Tensor = filterbank(waveform, lengths)[0]
        return frames

    return System(front, encoder, lambda e, labels: head(e.float(), labels)[0], [encoder, head])


def speechbrain(name: str, classes: int, device: str) -> System | None:
    """Return SpeechBrain's parts of the same sizes; None where it has no such network or is not installed."""
    try:
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
        from speechbrain.lobes.models.ResNet import ResNet
        from speechbrain.lobes.models.Xvector import Xvector
        from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
        from speechbrain.processing.features import InputNormalization
    except ImportError:
        return None
    networks: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "xvector": (lambda: Xvector(in_channels=MELS), 512),
        "ecapa_512": (lambda: ECAPA_TDNN(MELS, channels=[512] * 4 + [1536]), 192),
        "ecapa_1024": (lambda: ECAPA_TDNN(MELS, channels=[1024] * 4 + [3072]), 192),
        "resnet34": (lambda: ResNet(MELS, channels=[32, 64, 128, 256], lin_neurons=256), 256),
    }
    network, dim = networks[name]
    encoder, classifier = network().to(device), Classifier(dim, device=device, out_neurons=classes).to(device)
    filterbank = Fbank(n_mels=MELS).to(device)
    normalise = InputNormalization(norm_type="sentence", std_norm=False).to(device)
    criterion = LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=32))

    def front(waveform: Tensor) -> Tensor:
        lengths = torch.ones(len(waveform), device=waveform.device)
        frames: Tensor = normalise(filterbank(waveform), lengths)
        return frames

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = criterion(classifier(embeddings.float()[:, None]), labels[:, None])
        return value

    return System(front, encoder, loss, [encoder, classifier])


def training_step(system: System, waveform: Tensor, labels: Tensor, precision: str) -> Work:
    """Return a function that runs one step: features, forward, loss, backward, SGD."""
    for module in system.trained:
        module.train()
    parameters = [p for module in system.trained for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(waveform.device, precision):
            embeddings = system.embed(waveform)
        system.loss(embeddings, labels).backward()
        optimizer.step()

    return step


def embedding(system: System, waveform: Tensor, precision: str) -> Work:
    """Return a function that embeds the batch."""
    system.encoder.eval()

    def run() -> Tensor:
        with torch.inference_mode(), autocast(waveform.device, precision):
            return system.embed(waveform)

    return run


def graphed(work: Work) -> Work:
    """Return the work as a CUDA graph, launched at once on the memory that it was recorded with."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Return the context of a precision; the features stay in float32 by themselves."""
    kind = PRECISIONS[precision]
    return torch.autocast(device.type, kind, enabled=kind != torch.float32)


def variants(
    name: str, precisions: list[str], compiled: bool
) -> Iterator[tuple[str, str, Callable[[System], None]]]:
    """Yield the variants of our own network: a label, a precision, and the change to make."""
    for precision in precisions:
        yield precision, precision, lambda system: None
    if name.startswith("resnet"):
        yield f"{precisions[-1]}, channels-last", precisions[-1], _channels_last
    if compiled:
        yield f"{precisions[-1]}, compiled", precisions[-1], _compile


def _channels_last(system: System) -> None:
    system.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _compile(system: System) -> None:
    system.encoder = torch.compile(system.encoder)  # type: ignore[assignment]


def timed(work: Work, device: torch.device, seconds: float) -> float:
    """Return the seconds of one piece of work, averaged over at least `seconds` after a warm-up."""
    for _ in range(AT_ONCE):
        work()
    _wait(device)
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        for _ in range(AT_ONCE):
            work()
        done += AT_ONCE
        _wait(device)
    return (time.perf_counter() - began) / done


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def products_per_s(device: torch.device, seconds: float) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product in each precision: the limit."""
    size = PRODUCT_SIZE[device.type]
    rates = {}
    for name, kind in PRECISIONS.items():
        if device.type == "cpu" and name != "float32":
            continue  # without instructions for it a CPU takes a hundred times as long
        factor = torch.randn(size, size, device=device, dtype=kind)
        rates[name] = 2 * size**3 / timed(functools.partial(torch.mm, factor, factor), device, seconds)
    return rates


def measure(
    work: Work, label: str, crops: int, rate: float, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Return the record of a contender."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    one_s = timed(work, device, seconds)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None
    record = {
        "contender": label,
        "seconds": one_s,
        "crops_per_s": crops / one_s,
        "peak_gb": peak,
        "mfu": None,
    }
    if rate:
        record["mfu"] = rate / one_s
    return record


def flop(work: Work) -> int:
    """Return the floating point operations of products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def compare(name: str, asked: argparse.Namespace, limits: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the records of one network: training, embedding in batches, and one utterance at a time."""
    device = torch.device(asked.device)
    batch = 0.1 * torch.randn(asked.batch, round(asked.crop_s * RATE), device=device)
    single = 0.1 * torch.randn(1, round(SINGLE_S * RATE), device=device)
    labels = torch.randint(asked.classes, (asked.batch,), device=device)
    tasks: dict[str, tuple[int, Callable[[System, str], Work]]] = {
        "training": (asked.batch, lambda system, p: training_step(system, batch, labels, p)),
        "embedding": (asked.batch, lambda system, p: embedding(system, batch, p)),
        "one utterance of 4 s": (1, lambda system, p: embedding(system, single, p)),
    }
    precisions = list(limits)
    systems: list[tuple[str, Callable[..., System | None], list[Any]]] = [
        ("ours", ours, list(variants(name, precisions, asked.compile))),
        ("speechbrain", speechbrain, [(p, p, lambda system: None) for p in precisions]),
    ]
    for task, (crops, work_of) in tasks.items():
        for who, make, tried in systems:
            for label, precision, change in tried:
                torch.manual_seed(0)
                system = make(name, asked.classes, asked.device)
                if system is None:
                    print("left out: speechbrain is not installed", file=sys.stderr)
                    break
                counted = flop(
                    work_of(system, precision)
                )  # before it is compiled: the counter sees no kernels
                change(system)
                work = work_of(system, precision)
                modes = {label: work}
                if device.type == "cuda" and crops == 1 and who == "ours" and "compiled" not in label:
                    modes[f"{label}, CUDA graph"] = graphed(work)
                for mode, contender in modes.items():
                    rate = counted / limits[precision]
                    found = measure(contender, f"{who} {mode}", crops, rate, device, asked.seconds)
                    yield {"encoder": name, "task": task, "gflop": counted / 1e9, **found}


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line of the table."""
    peak = "" if record["peak_gb"] is None else f"{record['peak_gb']:8.2f} GB"
    return (
        f"{record['encoder']:12}{record['task']:22}{record['contender']:36}{record['crops_per_s']:12,.1f} crops/s"
        f"{record['mfu']:7.1%} MFU{peak}"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", help=f"of {', '.join(ENCODERS)} (default: all)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256, help="crops at once (default: 256)")
    parser.add_argument("--crop-s", type=float, default=2.0)
    parser.add_argument("--classes", type=int, default=17_982)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="least time to measure each contender (default: 5)"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on a GPU)"
    )
    parser.add_argument("--json", type=Path, help="file to write the records to")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    for name in asked.encoders:
        if name not in ENCODERS:
            parser.error(f"{name}: not one of {', '.join(ENCODERS)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is there; --device cpu with small sizes shows that everything runs")
    if asked.compile is None:
        asked.compile = device.type == "cuda"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    limits = products_per_s(device, asked.seconds)
    setting = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: _version(name) for name in ("torch", "speechbrain")},
        "sizes": {"batch": asked.batch, "crop_s": asked.crop_s, "classes": asked.classes},
        "product_tflops": {name: rate / 1e12 for name, rate in limits.items()},
    }
    print(json.dumps(setting))
    records = []
    for name in asked.encoders or ENCODERS:
        for record in compare(name, asked, limits):
            print(line_of(record), flush=True)
            records.append(record)
    if asked.json:
        asked.json.write_text(json.dumps({"setting": setting, "records": records}, indent=1) + "\n")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
