"""Log mel filterbanks of a whole batch at once: waveform in, features out.

Flavours that other toolkits' models were trained on: Kaldi's (WeSpeaker, 3D-Speaker), SpeechBrain's, and
torchaudio's `MelSpectrogram` after pre-emphasis (TaoRuijie), also divided by each utterance's deviation
(voxceleb_trainer). All compute frames -> real FFT -> power -> mel bands -> log, then subtract each utterance's mean.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models._cpu.graphs import is_exporting

# Frames worked on at a time. Their spectra stay in the processor's cache (a batch of 32 x 3 s in one piece
# took 1.5 times as long), and an hour of audio needs little more memory than a minute.
BLOCK_FRAMES = 2048
MEL_GROUPS = 4


class Filterbank(nn.Module):
    """What all flavours share; a flavour says how frames are cut and prepared, and what becomes of energies.

    The window and the mel matrix are buffers, so they move with the module, but not saved ones: the
    configuration in the model folder determines them, and a stored copy could only contradict it.

    Args:
        config: checked here; see `FeatureConfig`.
        frame_length, frame_shift: samples.
        fft_length: samples, at least `frame_length`.
        window: (frame_length,).
        mel: (fft_length // 2 + 1, num_mels), the weight of every FFT bin in every band.
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self,
        config: FeatureConfig,
        frame_length: int,
        frame_shift: int,
        fft_length: int,
        window: Tensor,
        mel: Tensor,
    ) -> None:
        super().__init__()
        self.num_mels = config.num_mels
        self.sample_rate = config.sample_rate
        self.frame_shift_ms = config.frame_shift_ms
        self.mean_norm = config.mean_norm
        self.frame_length, self.frame_shift, self.fft_length = frame_length, frame_shift, fft_length
        # Every step up to the power is linear, so the waveform's scale may as well sit in the window.
        self.register_buffer("window", window * config.waveform_scale, persistent=False)
        self.register_buffer("mel", mel.contiguous(), persistent=False)
        # Neighbouring bands share few FFT bins: four products over those cost a quarter of one over all.
        self.groups = []
        for first in range(0, config.num_mels, -(-config.num_mels // MEL_GROUPS)):
            bands = slice(first, first - (-config.num_mels // MEL_GROUPS))
            used = mel[:, bands].sum(1).nonzero().flatten().tolist() or [0]  # narrow bands may miss every bin
            self.groups.append((slice(used[0], used[-1] + 1), bands))

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of every utterance, as if each were alone.

        Args:
            waveform: (batch, samples), in [-1, 1]; what stands beyond `num_samples` is ignored, NaN included.
            num_samples: int64 (batch,), at most `samples`.

        Returns:
            features: (batch, frames, num_mels), natural log, or dB (SpeechBrain), 0 past `num_frames`; float32
                under autocast too, float64 after `.double()`.
            num_frames: int64 (batch,); 0 where the utterance is shorter than one frame.
        """
        device = waveform.device.type
        # Only where autocast is on: an exported graph keeps the context as a node that runtimes don't know.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            waveform = waveform.to(self.mel.dtype)
            if waveform.shape[1] < self.frame_length:
                return waveform.new_zeros(len(waveform), 0, self.num_mels), torch.zeros_like(num_samples)
            waveform, num_frames = self._place(waveform, num_samples)
            # A GPU wants few large kernels, and an exported graph can't loop over a length it doesn't know.
            if device != "cpu" or is_exporting():
                features = self._log_mel(waveform)
            else:
                blocks = [self._log_mel(block) for block in self._blocks(waveform)]
                features = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)
            features = self._finish(_clear(features, num_frames), num_frames)
            if self.mean_norm:
                features -= features.sum(1, keepdim=True) / num_frames.clamp(min=1)[:, None, None]
                _clear(features, num_frames)
            return features, num_frames

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """Return the log energy in every mel band of every whole frame, (batch, frames, num_mels)."""
        if is_exporting():
            power = self._exportable_power(waveform)
        else:
            frames = self._prepare(waveform.unfold(1, self.frame_length, self.frame_shift))
            squares = torch.view_as_real(torch.fft.rfft(frames, self.fft_length)).square_()
            power = squares[..., 0] + squares[..., 1]
        energies = [power[..., bins] @ self.mel[bins, bands] for bins, bands in self.groups]
        return self._log(torch.cat(energies, -1))

    def _exportable_power(self, waveform: Tensor) -> Tensor:
        """Return the power spectrum of every whole frame in operations that an exported graph can hold.

        The transform is a product with sines and cosines: runtimes have slow Fourier transforms, or none.
        """
        starts = torch.arange(0, waveform.shape[1] - self.frame_length + 1, self.frame_shift)
        frames = waveform[:, starts[:, None] + torch.arange(self.frame_length)]
        steps = torch.arange(self.fft_length, dtype=torch.float64)
        angle = (
            steps[:, None]
            * steps[: self.fft_length // 2 + 1]
            % self.fft_length
            * (2 * math.pi / self.fft_length)
        )
        frames = F.pad(self._prepare(frames), (0, self.fft_length - self.frame_length))
        return (frames @ angle.cos().to(frames.dtype)).square() + (
            frames @ angle.sin().to(frames.dtype)
        ).square()

    def _blocks(self, waveform: Tensor) -> Iterator[Tensor]:
        """Yield the waveform cut, with overlap, so that the frames of all pieces together are its frames."""
        total = 1 + (waveform.shape[1] - self.frame_length) // self.frame_shift
        step = max(1, BLOCK_FRAMES // len(waveform))
        for start in range(0, total, step):
            end = min(start + step, total)
            yield waveform[:, start * self.frame_shift : (end - 1) * self.frame_shift + self.frame_length]

    def _place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the waveform to cut frames from, and how many frames are each utterance's own."""
        raise NotImplementedError

    def _prepare(self, frames: Tensor) -> Tensor:
        """Return frames (batch, frames, frame_length) ready for the FFT, which takes them as padded with zeros."""
        raise NotImplementedError

    def _log(self, energies: Tensor) -> Tensor:
        """Return energies on a log scale."""
        raise NotImplementedError

    def _finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        """Return features after what needs whole utterances, 0 past `num_frames` as they came."""
        return features


class KaldiFilterbank(Filterbank):
    """Kaldi's filterbank: only whole frames, each without its mean, pre-emphasised, windowed; natural log.

    Source: Kaldi `compute-fbank-feats` by way of `torchaudio.compliance.kaldi.fbank`, with dither 0,
    `snip_edges`, no energy band. The order of operations is kept: near silence any other order (a fused
    pre-emphasis is enough) is as far off in float32 as this one, up to 2e-3, but in another direction.
    """

    PREEMPHASIS = 0.97
    # Energies below this count as this: the smallest step of a float32 at 1, in float64 too.
    FLOOR = torch.finfo(torch.float32).eps

    def __init__(self, config: FeatureConfig) -> None:
        length = int(config.sample_rate * config.frame_length_ms * 0.001)  # truncated, as Kaldi does
        shift = int(config.sample_rate * config.frame_shift_ms * 0.001)
        low_hz, high_hz = _check(config, length, shift)
        if config.window == "hamming":
            window = torch.hamming_window(length, periodic=False)
        else:
            window = torch.hann_window(length, periodic=False)
            window = window.pow(0.85) if config.window == "povey" else window
        fft_length = 1 << (length - 1).bit_length()
        mel = kaldi_mel(config.num_mels, fft_length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, length, shift, fft_length, window, mel)

    def _place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        return waveform, (1 + (num_samples - self.frame_length) // self.frame_shift).clamp(min=0)

    def _prepare(self, frames: Tensor) -> Tensor:
        frames = frames - frames.mean(-1, keepdim=True)
        scaled = frames * self.PREEMPHASIS
        frames[..., 1:] -= scaled[..., :-1]
        # The first sample has no predecessor in its frame; Kaldi lets it be its own.
        frames[..., 0] -= scaled[..., 0]
        frames *= self.window
        return frames

    def _log(self, energies: Tensor) -> Tensor:
        return energies.clamp_(min=self.FLOOR).log_()


class SpeechBrainFilterbank(Filterbank):
    """SpeechBrain's filterbank: frames centred on multiples of the shift, zeros around, no pre-emphasis; dB.

    Energies are floored at 1e-10 and at 80 dB below the utterance's loudest band. SpeechBrain takes that
    maximum over the padding too; here it is the utterance's own, as SpeechBrain gives for a single file.
    The FFT is one frame long (SpeechBrain's default of 400 at 16 kHz).

    Source: SpeechBrain 1.1, `speechbrain.lobes.features.Fbank`. Departure: an utterance shorter than one
    frame has no frames.
    """

    FLOOR = 1e-10
    TOP_DB = 80.0

    def __init__(self, config: FeatureConfig) -> None:
        length = round(config.sample_rate / 1000 * config.frame_length_ms)
        shift = round(config.sample_rate / 1000 * config.frame_shift_ms)
        low_hz, high_hz = _check(config, length, shift)
        window = _periodic_window(config, length)
        mel = speechbrain_mel(config.num_mels, length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, length, shift, length, window, mel)

    def _place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        half = self.frame_length // 2
        num_frames = 1 + (num_samples + 2 * half - self.frame_length) // self.frame_shift
        padded = _clear(F.pad(waveform, (half, half)), num_samples + half)
        return padded, num_frames * (num_samples >= self.frame_length)

    def _prepare(self, frames: Tensor) -> Tensor:
        return frames * self.window

    def _log(self, energies: Tensor) -> Tensor:
        return energies.clamp_(min=self.FLOOR).log10_().mul_(10)

    def _finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        loudest = _clear(features, num_frames, -math.inf).amax((1, 2), keepdim=True)
        return _clear(torch.maximum(features, loudest - self.TOP_DB), num_frames)


class TorchaudioFilterbank(Filterbank):
    """Pre-emphasis of the whole waveform, frames centred on multiples of the shift, reflection around; log.

    The window stands in the middle of frames as long as the FFT. Energies have 1e-6 added before the logarithm.

    Source: `torchaudio.transforms.MelSpectrogram` as TaoRuijie/ECAPA-TDNN calls it, after its pre-emphasis.
    Departure: an utterance shorter than the FFT has no frames.
    """

    PREEMPHASIS = 0.97
    OFFSET = 1e-6

    def __init__(self, config: FeatureConfig) -> None:
        length = round(config.sample_rate / 1000 * config.frame_length_ms)
        shift = round(config.sample_rate / 1000 * config.frame_shift_ms)
        low_hz, high_hz = _check(config, length, shift)
        window = _periodic_window(config, length)
        fft_length = 1 << (length - 1).bit_length()
        before = (fft_length - length) // 2
        window = F.pad(window, (before, fft_length - length - before))
        mel = htk_mel(config.num_mels, fft_length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, fft_length, shift, fft_length, window, mel)

    def _place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        num_frames = (1 + num_samples // self.frame_shift) * (num_samples >= self.fft_length)
        first = torch.sub(waveform[:, :1], waveform[:, 1:2], alpha=self.PREEMPHASIS)
        rest = torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=self.PREEMPHASIS)
        emphasised = torch.cat((first, rest), 1)
        half = self.fft_length // 2
        if waveform.device.type == "cpu" and not is_exporting():
            padded = F.pad(emphasised, (half, half))
            padded[:, :half] = emphasised[:, 1 : half + 1].flip(1)
            for row, own in enumerate(num_samples.tolist()):
                if own >= self.fft_length:
                    end = emphasised[row, own - half - 1 : own - 1]
                    padded[row, half + own : 2 * half + own] = end.flip(0)
            return padded, num_frames
        position = torch.arange(-half, waveform.shape[1] + half, device=waveform.device).abs()
        last = (num_samples - 1)[:, None]
        mirrored = torch.where(position > last, 2 * last - position, position).clamp(min=0)
        return emphasised.gather(1, mirrored), num_frames

    def _prepare(self, frames: Tensor) -> Tensor:
        return frames * self.window

    def _log(self, energies: Tensor) -> Tensor:
        return energies.add_(self.OFFSET).log_()


class VoxcelebTrainerFilterbank(TorchaudioFilterbank):
    """The same, every band with mean 0 and deviation 1 over the utterance, whatever `mean_norm` says.

    Source: voxceleb_trainer's ResNetSE34V2, where an instance norm follows the logarithm.
    """

    VARIANCE_OFFSET = 1e-5

    def _finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        count = num_frames.clamp(min=1)[:, None, None]
        centred = _clear(features - features.sum(1, keepdim=True) / count, num_frames)
        variance = centred.square().sum(1, keepdim=True) / count
        return centred / (variance + self.VARIANCE_OFFSET).sqrt()


def _clear(values: Tensor, count: Tensor, value: float = 0.0) -> Tensor:
    """Return (batch, steps, ...) with `value`, in place, in every row from its own count (batch,) on."""
    if values.device.type != "cpu" or is_exporting():
        beyond = torch.arange(values.shape[1], device=values.device) >= count[:, None]
        return values.masked_fill_(beyond if values.ndim == 2 else beyond[:, :, None], value)
    for row, own in enumerate(count.tolist()):  # a mask would cost a CPU a pass over everything
        if own < values.shape[1]:
            values[row, own:] = value
    return values


def build(config: FeatureConfig) -> Filterbank:
    """Return the features that a configuration names.

    Raises:
        InputError: lengths, bands or frequencies that make no filterbank.
    """
    flavours = {
        "kaldi": KaldiFilterbank,
        "speechbrain": SpeechBrainFilterbank,
        "torchaudio": TorchaudioFilterbank,
        "voxceleb_trainer": VoxcelebTrainerFilterbank,
    }
    return flavours[config.kind](config)


def kaldi_mel(num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles on Kaldi's mel scale, 1127 ln(1 + f / 700).

    The triangles are straight lines over mel (not over Hz), and the Nyquist bin has no weight.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    width = (high - low) / (num_mels + 1)
    band = torch.arange(num_mels)
    left, centre, right = low + band * width, low + (band + 1.0) * width, low + (band + 2.0) * width
    hz = sample_rate / fft_length * torch.arange(fft_length / 2)
    mel = 1127.0 * (1.0 + hz / 700.0).log()[:, None]
    weights = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0.0)
    return F.pad(weights, (0, 0, 0, 1))


def speechbrain_mel(
    num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float
) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles on the mel scale 2595 log10(1 + f / 700).

    Unlike Kaldi's they are straight lines over Hz and symmetric: both flanks are as wide as the lower one.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = 700 * (10 ** (torch.linspace(low, high, num_mels + 2) / 2595) - 1)
    centre, width = edges[1:-1], (edges[1:] - edges[:-1])[:-1]
    hz = torch.linspace(0, sample_rate // 2, fft_length // 2 + 1)[:, None]
    slope = (hz - centre) / width
    return torch.minimum(slope + 1.0, -slope + 1.0).clamp(min=0.0)


def htk_mel(num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles over Hz between neighbouring centres, HTK's scale."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = 700 * (10 ** (torch.linspace(low, high, num_mels + 2) / 2595) - 1)
    hz = torch.linspace(0, sample_rate // 2, fft_length // 2 + 1)[:, None]
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


def _periodic_window(config: FeatureConfig, length: int) -> Tensor:
    windows = {"hamming": torch.hamming_window, "hanning": torch.hann_window}
    if config.window not in windows:
        raise InputError(
            f"features.window: {config.kind!r} features take hamming or hanning, found {config.window!r}"
        )
    return windows[config.window](length)


def _check(config: FeatureConfig, length: int, shift: int) -> tuple[float, float]:
    """Return the lowest and highest frequency in Hz, after checking what every flavour needs."""
    nyquist = config.sample_rate / 2
    high_hz = config.high_hz if config.high_hz > 0 else nyquist + config.high_hz
    if length < 2 or shift < 1:
        raise InputError(
            f"features: {config.frame_length_ms:g} ms frames every {config.frame_shift_ms:g} ms are "
            f"{length} samples every {shift} at {config.sample_rate} Hz; expected at least 2 every 1"
        )
    if not 0 <= config.low_hz < high_hz <= nyquist:
        raise InputError(
            f"features: bands from low_hz {config.low_hz:g} to high_hz {high_hz:g} Hz; "
            f"expected 0 <= low_hz < high_hz <= {nyquist:g}"
        )
    if config.num_mels < 1:
        raise InputError(f"features.num_mels: expected at least 1, found {config.num_mels}")
    return config.low_hz, high_hz
