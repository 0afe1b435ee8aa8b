"""SpecAugment: frequency and time masks on a batch of features."""

import torch
from torch import Tensor

from speakerverif.config import SpecAugmentConfig

MAX_SHARE = 0.2  # greatest share of an utterance's frames that one time mask covers


def spec_augment(
    features: Tensor,
    num_frames: Tensor,
    config: SpecAugmentConfig,
    generator: torch.Generator | None = None,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Return the features with separate masks on each utterance; masked values are 0, the normalised mean.

    Args:
        features: float32 (batch, frames, mels); not changed in place.
        num_frames: int64 (batch,), number of frames of each utterance; time masks lie within them.
        config: numbers of masks and their greatest widths; widths are uniform from 0 to these.
        generator: source of randomness, on the features' device; None: the default generator.
        part: (k, n): these rows are the k-th of n equal parts of a batch and get the same masks as in the whole batch.

    Source: Park et al. 2019, arXiv 1904.08779, section 2, with p = 0.2 as in its Switchboard policies: a time
        mask covers at most a fifth of the utterance. Departure: no time warping.
    """
    frames, mels = features.shape[1:]
    every_band = torch.full_like(num_frames, mels)
    widest = (num_frames * MAX_SHARE).long().clamp(max=config.max_time_frames)
    widest_band = every_band.clamp(max=config.max_freq_bands)
    bands = _masked(mels, every_band, widest_band, config.freq_masks, generator, part)
    times = _masked(frames, num_frames, widest, config.time_masks, generator, part)
    return features.masked_fill(bands[:, None, :] | times[:, :, None], 0.0)


def _masked(
    size: int,
    length: Tensor,
    widest: Tensor,
    masks: int,
    generator: torch.Generator | None,
    part: tuple[int, int],
) -> Tensor:
    """Return whether each of `size` positions is in one of `masks` random masks within `length`: (batch, size)."""
    k, n = part
    draw = torch.rand(2, n, len(length), masks, generator=generator, device=length.device)[:, k]
    # rand() is below 1, so widths go up to `widest`, and starts up to the last one where the mask fits.
    width = (draw[0] * (widest + 1)[:, None]).long()
    start = (draw[1] * (length[:, None] - width + 1)).long()
    place = torch.arange(size, device=length.device)
    under = (place >= start[..., None]) & (place < (start + width)[..., None])
    return under.any(1)
