"""Names for the turns of conversations: which enrolled speaker speaks, and which turns share an unknown voice.

The turns come from a diarizer or a transcript; nothing here looks for them.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing
from speakerverif.audio import reading
from speakerverif.audio.channels import Channel
from speakerverif.audio.files import SUFFIXES
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.chunks import Source
from speakerverif.inference.embed import embed
from speakerverif.inference.enroll import EnrolmentLimits
from speakerverif.inference.enrollment import Store
from speakerverif.inference.samples import Sample
from speakerverif.inference.scale import Scale
from speakerverif.inference.voices import similarity_of_voices
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring.normalization import unit

NO_LABELS = ("", "<NA>", "NA")
UNKNOWN = "unknown"
# By which a voice's least log likelihood ratio rises per doubling of the speech on either side: the calibration knows
# single recordings, and the LLRs of means of several are larger. `tools/conversations.py` measures what it gains.
LLR_PER_DOUBLING = 0.85


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation, named.

    Attributes:
        path: of the recording.
        start_s: where the turn begins.
        duration_s: how long it is.
        label: the diarizer's name for the voice; empty where it gave none.
        name: an enrolled speaker's; "unknown 1", "unknown 2" for unknown voices, one number for each voice
            over all recordings; empty where the turn could not be embedded.
        score: of the voice, against the enrolled speaker most similar to it; None where the turn has no name.
        llr: of the voice, likewise; None without a calibration.
        most_similar: that enrolled speaker.
        status: "ok", or why the turn could not be embedded.
        llr_threshold: from which the voice is named; None where a score decides.
    """

    path: str
    start_s: float
    duration_s: float
    label: str
    name: str
    score: float | None
    llr: float | None
    most_similar: str | None
    status: str
    llr_threshold: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON writes it."""
        return asdict(self)


def name_turns(
    folder: ModelFolder,
    store: Store,
    utterances: Sequence[Utterance],
    *,
    scale: Scale,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    device: str = "cpu",
    source: Source = reading,
) -> list[Turn]:
    """Return the turns with their names.

    A voice is all turns of one label in one recording, where the diarizer gave labels and they sound alike; other
    turns are joined to voices by average-linkage clustering of their scores, at the calibration's operating point. The
    mean embedding of a voice, weighted by the turns' lengths, is compared with all enrolled speakers, and unknown
    voices are joined over all recordings by the same clustering.

    By default a voice is named where its log likelihood ratio with one of N enrolled speakers reaches log N (there the
    speaker is as likely as a stranger, if every second voice is enrolled), plus `LLR_PER_DOUBLING` for each doubling of
    the speech on either side over that of the calibration's trials.

    Args:
        folder: the loaded model.
        store: of that model.
        utterances: the turns, their labels as speakers.
        scale: of the model; it must be calibrated with an operating point, or a threshold be given.
        threshold: one voice at this score or above.
        llr_threshold: one voice at this log likelihood ratio or above.
        device: where the model is.
        source: reads the recordings.

    Raises:
        InputError: nobody enrolled; nothing to decide by; no turn that can be embedded.
    """
    scale.check(threshold, llr_threshold)
    if scale.decide(0.0, 0.0, threshold, llr_threshold).accepted is None:
        raise InputError(
            f"{scale.source}: no decision threshold; calibrate with --far, or give --threshold or --llr-threshold"
        )
    names, _ = store.models()
    if not names:
        raise InputError(f"{store.folder}: nobody is enrolled")
    names, people = store.samples_of(names)
    turns = [replace(utterance, id=str(i)) for i, utterance in enumerate(utterances)]
    table = embed(folder, turns, device=device, label="turns", source=source)
    if not len(table):
        raise InputError(f"no turn can be embedded: {next(iter(table.failed.values()))}")
    limits = EnrolmentLimits.of(folder)
    return name_embedded(
        (names, people),
        turns,
        table,
        scale=scale,
        min_similarity=-1.0 if limits is None else limits.min_sample,
        threshold=threshold,
        llr_threshold=llr_threshold,
    )


def name_embedded(
    enrolled: tuple[Sequence[str], Sequence[Sequence[Sample]]],
    turns: Sequence[Utterance],
    table: EmbeddingTable,
    *,
    scale: Scale,
    min_similarity: float,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    llr_per_doubling: float = LLR_PER_DOUBLING,
) -> list[Turn]:
    """Return embedded turns with their names, as `name_turns` does.

    Args:
        enrolled: names of the speakers, and the samples of each.
        turns: their ids are "0", "1", ...; their labels are the speakers.
        table: embeddings of the turns, by their ids; turns that are not in it are in its `failed`.
        scale: of the model, with an operating point or a threshold.
        min_similarity: of the turns of a label (`similarity_of_voices`); below, they are joined as if they had none.
        threshold: one voice at this score or above.
        llr_threshold: one voice at this log likelihood ratio or above.
        llr_per_doubling: by which the default threshold rises.
    """
    names, people = enrolled
    rows = {int(turn): row for row, turn in enumerate(table.ids)}

    def values_of(first: Sequence[Sequence[Sample]], second: EmbeddingTable) -> NDArray[np.float64]:
        compared = scale.compare(first, second)
        by_score = threshold is not None or compared.llrs is None
        return compared.scores if by_score else _not_none(compared.llrs)

    limit = threshold if threshold is not None else llr_threshold
    by_default = limit is None
    if limit is None and scale.calibration is not None and scale.calibration.point is not None:
        limit = scale.calibration.point.threshold
    assert limit is not None

    def joined(voices: list[list[int]]) -> list[list[int]]:
        return _joined(voices, _voices(table, voices), values_of, limit)

    voices = _labelled_or_clustered(table, turns, rows, min_similarity, joined)
    means = _voices(table, voices)
    compared = scale.compare(people, means)
    least = np.full(compared.scores.shape, limit)
    if by_default:
        least = math.log(len(names)) + llr_per_doubling * _doublings(people, means, scale)
    values = compared.scores if threshold is not None else _not_none(compared.llrs)
    best = compared.scores.argmax(axis=0)
    accepted, unnamed = {}, []
    for voice, who in enumerate(best.tolist()):
        if values[who, voice] >= least[who, voice]:
            accepted[voice] = names[who]
        else:
            unnamed.append(voice)
    groups = joined([voices[voice] for voice in unnamed]) if unnamed else []
    groups.sort(key=min)
    number = {row: f"{UNKNOWN} {i}" for i, group in enumerate(groups, 1) for row in group}
    result: list[Turn] = []
    voice_of = {row: voice for voice, members in enumerate(voices) for row in members}
    for i, turn in enumerate(turns):
        row = rows.get(i)
        place = (turn.path, turn.start_s, turn.duration_s or float("nan"), turn.speaker)
        if row is None:
            result.append(Turn(*place, "", None, None, None, table.failed[str(i)]))
            continue
        voice = voice_of[row]
        who = int(best[voice])
        llr = None if compared.llrs is None else float(compared.llrs[who, voice])
        name = accepted.get(voice) or number[row]
        duration_s = turn.duration_s or float(table.durations[row])
        place = (turn.path, turn.start_s, duration_s, turn.speaker)
        score, at = (
            float(compared.scores[who, voice]),
            None if threshold is not None else float(least[who, voice]),
        )
        result.append(Turn(*place, name, score, llr, names[who], "ok", at))
    return result


def read_turns(
    path: str | Path, audio_root: str | Path | None = None, recording: str | Path | None = None
) -> list[Utterance]:
    """Return the turns of a file, with the diarizer's label as the speaker.

    Args:
        path: RTTM; a Kaldi folder with `segments`; Lhotse cuts; or JSON with a list `segments` of objects with `start`
            and `end` in seconds, and `speaker` where it is known, as Whisper and WhisperX write.
        audio_root: folder of the recordings.
        recording: the one that Whisper's JSON is of; by default an audio file of the same name, in `audio_root` or the
            JSON's folder.

    Raises:
        InputError: unreadable, wrong rows, a recording that can't be found.
    """
    path = Path(path)
    segments = _whisper_segments(path) if path.suffix == ".json" and path.is_file() else None
    if segments is None:
        if recording is not None:
            raise InputError(f"{path}: names its recordings itself; leave {recording} out")
        manifest = read_manifest(path, audio_root)
        return [manifest[i] for i in range(len(manifest))]
    if recording is None:
        folder = path.parent if audio_root is None else Path(audio_root)
        matches = [p for p in sorted(folder.glob(f"{path.stem}.*")) if p.suffix.lower() in SUFFIXES]
        if len(matches) != 1:
            raise InputError(f"{path}: does not say which recording it is of; give the recording too")
        recording = matches[0]
    turns = []
    for number, segment in enumerate(segments):
        try:
            start_s, end_s = float(segment["start"]), float(segment["end"])
        except (KeyError, TypeError, ValueError):
            start_s = end_s = float("nan")
        if not 0 <= start_s < end_s < float("inf"):
            raise InputError(f"{path}: segment {number}: expected start and end in seconds, found {segment}")
        label = str(segment.get("speaker") or "")
        turns.append(Utterance(str(number), str(recording), label, start_s, end_s - start_s))
    if not turns:
        raise InputError(f"{path}: no segments in it")
    return turns


def write_rttm(turns: Iterable[Turn], path: str | Path) -> None:
    """Write named turns as RTTM; spaces in names become underscores, turns without a name are left out."""
    with replacing(path) as file:
        for turn in turns:
            if turn.name:
                name = "_".join(turn.name.split())
                stem = "_".join(Path(turn.path).stem.split())
                line = (
                    f"SPEAKER {stem} 1 {turn.start_s:.3f} {turn.duration_s:.3f} <NA> <NA> {name} <NA> <NA>\n"
                )
                file.write(line.encode())


def _labelled_or_clustered(
    table: EmbeddingTable,
    turns: Sequence[Utterance],
    rows: dict[int, int],
    min_similarity: float,
    joined: Callable[[list[list[int]]], list[list[int]]],
) -> list[list[int]]:
    """Return the voices of each recording as lists of rows: the labels' where they hold, else clusters."""
    labelled: dict[tuple[str, Channel, str], list[int]] = {}
    loose: dict[tuple[str, Channel], list[int]] = {}
    for i, row in rows.items():
        if turns[i].speaker in NO_LABELS:
            loose.setdefault((turns[i].path, turns[i].channel), []).append(row)
        else:
            labelled.setdefault((turns[i].path, turns[i].channel, turns[i].speaker), []).append(row)
    voices = []
    for (path, channel, _), members in labelled.items():
        if similarity_of_voices(table.embeddings[members]) >= min_similarity:
            voices.append(members)
        else:
            loose.setdefault((path, channel), []).extend(members)
    for members in loose.values():
        voices += joined([[row] for row in members])
    return voices


def _voices(table: EmbeddingTable, voices: Sequence[Sequence[int]]) -> EmbeddingTable:
    """Return a table of the mean embeddings of voices, weighted by the turns' lengths."""
    rows = unit(table.embeddings)
    weights = np.maximum(table.durations, 1e-3)
    means = np.stack([weights[list(own)] @ rows[list(own)] / weights[list(own)].sum() for own in voices])
    return EmbeddingTable(
        ids=[str(i) for i in range(len(voices))],
        embeddings=means.astype(np.float32),
        durations=np.array([table.durations[list(own)].sum() for own in voices], np.float32),
        speech=np.array([table.speech[list(own)].sum() for own in voices], np.float32),
        status=["ok"] * len(voices),
        fingerprint=table.fingerprint,
    )


def _doublings(
    people: Sequence[Sequence[Sample]], voices: EmbeddingTable, scale: Scale
) -> NDArray[np.float64]:
    """Return how often the speech of both sides is doubled over that of the calibration's trials, (people, voices).

    Less speech than that counts as 0, and so do unknown amounts and a calibration that knows amounts by itself.
    """
    shape = len(people), len(voices)
    fitted = scale.calibration
    if fitted is None or fitted.speech_s <= 0 or {"speech", "duration"} & set(fitted.measures):
        return np.zeros(shape)
    sides = (np.array([sum(s.speech_s for s in samples) for samples in people]), voices.speech)
    # nan, where an earlier version enrolled, and 0 become 1.
    first, second = (np.log2(np.fmax(side / fitted.speech_s, 1.0)) for side in sides)
    return np.asarray(first[:, None] + second[None, :], np.float64)


def _joined(
    voices: list[list[int]],
    means: EmbeddingTable,
    values_of: Callable[[Sequence[Sequence[Sample]], EmbeddingTable], NDArray[np.float64]],
    limit: float,
) -> list[list[int]]:
    """Return voices joined while their average score is at the limit or above."""
    if len(voices) < 2:
        return voices
    from scipy.cluster.hierarchy import fcluster, linkage

    samples = [
        [Sample(row, "", "", float(duration), float(speech))]
        for row, duration, speech in zip(means.embeddings, means.durations, means.speech, strict=True)
    ]
    values = values_of(samples, means)
    # Hierarchies want distances of zero or more; a score falls as its distance grows.
    pairs = np.triu_indices(len(voices), 1)
    scores = (values + values.T)[pairs] / 2
    highest = max(float(scores.max()), limit)
    clusters = fcluster(linkage(highest - scores, "average"), highest - limit, "distance")
    groups: dict[int, list[int]] = {}
    for cluster, members in zip(clusters.tolist(), voices, strict=True):
        groups.setdefault(cluster, []).extend(members)
    return list(groups.values())


def _whisper_segments(path: Path) -> list[dict[str, Any]] | None:
    """Return the segments of a transcript; None where a JSON file holds something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    segments = content.get("segments") if isinstance(content, dict) else None
    return segments if isinstance(segments, list) and all(isinstance(s, dict) for s in segments) else None


def _not_none(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert values is not None
    return values
