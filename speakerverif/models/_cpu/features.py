"""Feature steps, one utterance at a time where a mask or an index would need a pass over the whole batch."""

from torch import Tensor
from torch.nn import functional as F

from speakerverif.models._cpu.conditions import runs_eagerly
from speakerverif.models.features.filterbank import Fill
from speakerverif.models.features.torchaudio import ReflectEnds

# Frames worked on at a time. Their spectra stay in the processor's cache (a batch of 32 x 3 s in one piece
# took 1.5 times as long), and an hour of audio needs little more memory than a minute.
BLOCK_FRAMES = 2048


class FastFill(Fill):
    """Only the rows that have something to overwrite are touched."""

    def forward(self, values: Tensor, count: Tensor, value: float = 0.0) -> Tensor:
        if not runs_eagerly(values):
            return super().forward(values, count, value)
        for row, end in enumerate(count.tolist()):
            if end < values.shape[1]:
                values[row, end:] = value
        return values


class FastReflectEnds(ReflectEnds):
    """Only the ends are mirrored, the rest is copied."""

    def forward(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        if not runs_eagerly(waveform):
            return super().forward(waveform, num_samples)
        half = self.margin
        padded = F.pad(waveform, (half, half))
        padded[:, :half] = waveform[:, 1 : half + 1].flip(1)
        for row, length in enumerate(num_samples.tolist()):
            if length >= 2 * half:
                end = waveform[row, length - half - 1 : length - 1]
                padded[row, half + length : 2 * half + length] = end.flip(0)
        return padded
