"""One recording of each of 251 LibriSpeech readers: further training classes for another corpus, without trials.

Source: Panayotov, Chen, Povey and Khudanpur 2015, "LibriSpeech: an ASR corpus based on public domain audio books"
(OpenSLR 12, train-clean-100, CC BY 4.0). The folder contains `wav.scp` and `utt2spk`. With one recording per speaker,
a head can't separate the speaker from the recording: this gives training classes, but no trials.
"""

from pathlib import Path

from speakerverif._util.files import write_json
from speakerverif.corpora._prepared import Prepared, counts, durations, kaldi_table
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

EXPECTED = {"speakers": 251, "utterances": 251}
SHAPE = "wav.scp (recording, path) and utt2spk (recording, reader)"


def prepare(root: Path, out: Path) -> Prepared:
    """Write `train.tsv`, and the counts in `prepare.json`, and return the lists; there are no trials.

    Args:
        root: the corpus's folder.
        out: folder for the list, which has absolute paths.

    Raises:
        InputError: a table is missing, wrong, or lacks a recording that is in the other; audio missing, empty or
            unreadable.
    """
    root = root.resolve()
    paths, readers = (kaldi_table(root / name, SHAPE) for name in ("wav.scp", "utt2spk"))
    if odd := sorted(paths.keys() ^ readers.keys()):
        raise InputError(
            f"{root}: {len(odd)} recordings in only one of wav.scp and utt2spk, first: {odd[:5]}"
        )
    lengths = durations([root / path for path in paths.values()])
    # Readers are numbers, which may also be names of speakers in another corpus.
    utterances = [
        Utterance(name, str(root / path), f"librispeech-{readers[name]}", 0.0, length)
        for (name, path), length in zip(paths.items(), lengths, strict=True)
    ]
    out.mkdir(parents=True, exist_ok=True)
    Manifest.from_utterances(utterances).write(out / "train.tsv")
    counted = counts(readers.values())
    notes = [] if counted == EXPECTED else [f"found {counted}, the corpus has {EXPECTED}"]
    write_json(out / "prepare.json", {"found": counted, "expected": EXPECTED, "notes": notes})
    return Prepared(out / "train.tsv", {}, root, notes)
