"""Filterbanks of one utterance of 4 s and of 32 of 3 s, against peers that compute the same, and the FFT alone."""

import functools
from collections.abc import Callable
from typing import Literal

import torch

from speakerverif._util.allocator import keep_freed_memory
from speakerverif.config import FeatureConfig
from speakerverif.models import features
from tools.benches._case import Case, Limit, Work, left_out

RATE, MELS = 16000, 80
Kind = Literal["kaldi", "speechbrain", "torchaudio"]
SIZES = {"1 x 4 s": (1, 4 * RATE), "32 x 3 s": (32, 3 * RATE)}
FFT = {"kaldi": (400, 512), "speechbrain": (400, 400), "torchaudio": (512, 512)}  # samples: frame, transform


def _kaldi_peers(waveform: torch.Tensor) -> dict[str, Work]:
    try:
        from torchaudio.compliance import kaldi
    except ImportError:
        left_out("torchaudio")
        return {}

    def run() -> list[torch.Tensor]:
        scaled = waveform * 32768
        return [
            kaldi.fbank(one[None], num_mel_bins=MELS, window_type="hamming", dither=0.0) for one in scaled
        ]

    return {"torchaudio": run}


def _speechbrain_peers(waveform: torch.Tensor) -> dict[str, Work]:
    try:
        from speechbrain.lobes.features import Fbank
    except ImportError:
        left_out("speechbrain")
        return {}
    return {"speechbrain": functools.partial(Fbank(n_mels=MELS), waveform)}


def _torchaudio_peers(waveform: torch.Tensor) -> dict[str, Work]:
    try:
        from torchaudio.transforms import MelSpectrogram
    except ImportError:
        left_out("torchaudio")
        return {}
    spectrogram = MelSpectrogram(
        RATE, n_fft=512, win_length=400, hop_length=160, f_min=20, f_max=7600, n_mels=MELS
    )
    return {"torchaudio": lambda: (spectrogram(waveform) + 1e-6).log()}


def _librosa(waveform: torch.Tensor, fft_length: int) -> dict[str, Work]:
    try:
        import librosa
    except ImportError:
        left_out("librosa")
        return {}
    samples = waveform.numpy()

    def run() -> object:
        mel = librosa.feature.melspectrogram(
            y=samples, sr=RATE, n_fft=fft_length, win_length=400, hop_length=160, n_mels=MELS
        )
        return librosa.power_to_db(mel)

    return {"librosa": run}


PEERS: dict[Kind, Callable[[torch.Tensor], dict[str, Work]]] = {
    "kaldi": _kaldi_peers,
    "speechbrain": _speechbrain_peers,
    "torchaudio": _torchaudio_peers,
}


def _case(kind: Kind, size: str, threads: int) -> Case:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the command line does; the peers gain too
    torch.manual_seed(0)
    waveform = 0.1 * torch.randn(SIZES[size])
    lengths = torch.full((len(waveform),), waveform.shape[1])
    filterbank = features.build(FeatureConfig(kind=kind, num_mels=MELS, window="hamming"))
    frame, fft_length = FFT[kind]
    frames = torch.nn.functional.pad(waveform.unfold(1, frame, 160), (0, fft_length - frame))

    def ours() -> object:
        with torch.inference_mode():
            return filterbank(waveform, lengths)

    peers = {**PEERS[kind](waveform), **_librosa(waveform, fft_length)}
    return Case(ours, peers, {"FFT alone": Limit(lambda: torch.fft.rfft(frames))})


CASES = {f"{kind} {size}": functools.partial(_case, kind, size) for kind in PEERS for size in SIZES}
