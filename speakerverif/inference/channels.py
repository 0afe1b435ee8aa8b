"""Each channel of a recording as a separate utterance: ids `path#1`, `path#2`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.chunks import Source, Utterances

_NUMBERED = re.compile(r"(.+)#([1-9]\d{0,3})")


def each_channel(utterances: Utterances, source: Source) -> list[Utterance]:
    """Return one utterance per channel of each file, as `channels_of`."""
    return [channel for utterance in utterances for channel in channels_of(utterance, source)]


def channels_of(utterance: Utterance, source: Source) -> Iterable[Utterance]:
    """Return one utterance per channel of a file; an utterance that names a channel stays unchanged.

    A file that can't be read stays one utterance, so that the reader says why.
    """
    if utterance.channel is not None:
        return [utterance]
    try:
        channels = source.info(utterance.path).channels
    except InputError:
        return [utterance]
    return (replace(utterance, id=f"{utterance.id}#{n}", channel=n) for n in range(1, channels + 1))


def numbered(names: Sequence[str]) -> dict[str, tuple[str, int | None]]:
    """Return the file and the channel that each name of the form `path#2` means; other names mean a whole file."""
    parts: dict[str, tuple[str, int | None]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        parts[name] = (match[1], int(match[2])) if match else (name, None)
    return parts
