"""Lhotse's cuts, read from their JSON only: nothing is transformed, downloaded or executed."""

from typing import Any

from speakerverif.data._manifest_files import Utterance
from speakerverif.errors import InputError


def lhotse_cut(row: dict[str, Any]) -> Utterance:
    """Return the utterance of a cut: a part of one file, with the single speaker of its supervisions.

    Raises:
        InputError: a cut with several recordings or speakers, with a source other than a file, or with transforms
            that Lhotse would apply.
        KeyError, TypeError, ValueError, IndexError: not in Lhotse's format.
    """
    kind, recording = row.get("type", "MonoCut"), row["recording"]
    if kind not in ("MonoCut", "MultiCut", "Cut"):
        raise InputError(f"a {kind}; expected cuts of one recording, MonoCut")
    if recording is None:
        raise InputError("no recording in this cut")
    sources = recording["sources"]
    if len(sources) != 1 or sources[0]["type"] != "file":
        kinds = ", ".join(str(source["type"]) for source in sources)
        raise InputError(f"expected a recording in one file, found {kinds or 'none'}")
    changes = [_name(change) for change in recording.get("transforms") or ()]
    if lasting := [name for name in changes if name != "Resample"]:  # every recording is resampled anyway
        raise InputError(f"the recording is changed by {', '.join(lasting)}, which is not done here; save it")
    channel = None if kind == "MultiCut" else _channel(row, sources[0].get("channels") or [0])
    speakers = sorted({_text(s["speaker"]) for s in row.get("supervisions") or () if s.get("speaker")})
    if len(speakers) > 1:
        raise InputError(f"{len(speakers)} speakers in one cut; trim the cuts to their supervisions")
    start_s, duration_s = _seconds(row.get("start", 0.0)), _seconds(row["duration"])
    if not (start_s >= 0 and duration_s > 0):
        raise InputError(f"{duration_s} s from {start_s} s on; expected a stretch of positive length")
    return Utterance(
        _text(row["id"]), _text(sources[0]["source"]), "".join(speakers), start_s, duration_s, channel
    )


def _channel(row: dict[str, Any], channels: list[int]) -> int | None:
    """Return the channel of a cut, counted from 1; None for a file of one channel."""
    if channels == [0]:
        return None
    channel = row.get("channel", channels[0] if len(channels) == 1 else None)
    if type(channel) is not int or channel not in channels:
        raise InputError(f"channel {channel} of a recording with the channels {channels}")
    return channel + 1


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _name(change: Any) -> str:
    """Return the name of a transform, which Lhotse writes under `name`."""
    return str(change.get("name", change)) if isinstance(change, dict) else str(change)
