"""Recordings decoded to WAV once, so that a comparison of trainings doesn't time a decoder."""

from pathlib import Path

import soundfile

from speakerverif.audio import reading
from speakerverif.data.manifest import Manifest, Utterance


def decode(manifest: Manifest, folder: Path) -> Manifest:
    """Return the manifest of the utterances as 16 kHz WAV files below `folder`, writing those that are missing."""
    path = folder / "manifest.tsv"
    if not path.is_file():
        utterances = []
        for u in manifest:
            wav = (folder / u.id).with_suffix(".wav").absolute()
            wav.parent.mkdir(parents=True, exist_ok=True)
            samples = reading.read(u.path, u.start_s, u.duration_s)
            soundfile.write(wav, samples, 16000)
            utterances.append(Utterance(u.id, str(wav), u.speaker, 0.0, len(samples) / 16000))
        Manifest.from_utterances(utterances).write(path)
    return Manifest.read(path)
