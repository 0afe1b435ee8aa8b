"""Measure the limits of a model's enrolment checks on recordings of known speakers, and write `enrolment.toml`.

    python tools/enrolment_limits.py --manifest corpora/speechocean762/dev --audio-root corpora/speechocean762 \
        --out enrolment.toml

Each limit objects to the share `--false-objections` of enrolments that are right; printed beside it is the share of
wrong ones that it finds. The recordings must be of speakers whom the model was not trained on.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif._util import resources, toml
from speakerverif._util.files import write_atomically
from speakerverif.audio import reading
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.evaluation.metrics import det_curve
from speakerverif.inference.embed import embed
from speakerverif.inference.engines import load_for_inference
from speakerverif.inference.enroll import EnrolmentLimits, similarities_to_others
from speakerverif.inference.recordings import Recordings
from speakerverif.inference.voices import similarity_within
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring.normalization import unit

ENROLLED = 4  # recordings per enrolment
JOINED = 3  # recordings per joined one
PER_SPEAKER = 3  # joined recordings of each kind
CROPS_S = (0.5, 1.0, 1.5, 2.0, 3.0)
ENOUGH_EER = 0.10  # enough speech: no higher EER than this

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """Recordings by speaker, and their unit embeddings float32 (N, D)."""

    utterances: list[Utterance]
    rows_of: list[NDArray[np.int64]]
    embeddings: NDArray[np.float32]
    speech_s: NDArray[np.float32]


def read_corpus(folder: ModelFolder, manifest: Manifest) -> Corpus:
    """Return the recordings of all speakers who have enough of them."""
    utterances = [manifest[i] for i in range(len(manifest))]
    table = embed(folder, utterances)
    utterances = [utterance for utterance in utterances if utterance.id not in table.failed]
    speakers = sorted({utterance.speaker for utterance in utterances})
    rows = [
        np.array([i for i, utterance in enumerate(utterances) if utterance.speaker == speaker])
        for speaker in speakers
    ]
    needed = [own for own in rows if len(own) >= 2 * ENROLLED + 1]
    return Corpus(utterances, needed, unit(table.embeddings), table.speech)


def voices(folder: ModelFolder, corpus: Corpus, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the similarities within joined recordings of one speaker, and of two."""
    similarities: dict[bool, list[float]] = {True: [], False: []}
    for speaker, own in enumerate(corpus.rows_of):
        for turn in range(PER_SPEAKER * 2):
            alone = turn % 2 == 0
            rows = rng.choice(own, JOINED, replace=False)
            if not alone:
                other = (speaker + int(rng.integers(1, len(corpus.rows_of)))) % len(corpus.rows_of)
                rows[-1] = rng.choice(corpus.rows_of[other])
            rate = folder.model.sample_rate
            parts = [reading.read(corpus.utterances[row].path, sample_rate=rate) for row in rows.tolist()]
            joined = Recordings([np.concatenate(parts)], rate, rate)
            duration_s = joined.info(joined.names[0]).duration_s
            similarities[alone].append(similarity_within(folder, joined.names[0], duration_s, joined))
    return np.array(similarities[True]), np.array(similarities[False])


def samples(corpus: Corpus, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the similarities of recordings to the others of their speaker, and to those of another speaker."""
    right, wrong = [], []
    for speaker, own in enumerate(corpus.rows_of):
        for _ in range(20):
            rows = rng.choice(own, ENROLLED, replace=False)
            right.extend(similarities_to_others(corpus.embeddings[rows]).tolist())
            other = (speaker + int(rng.integers(1, len(corpus.rows_of)))) % len(corpus.rows_of)
            rows[0] = rng.choice(corpus.rows_of[other])
            wrong.append(float(similarities_to_others(corpus.embeddings[rows])[0]))
    return np.array(right), np.array(wrong)


def twins(corpus: Corpus, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the similarities of speakers to the nearest of all others, and to their own second enrolment."""
    nearest, own = [], []
    for _ in range(20):
        drawn = [rng.choice(rows, 2 * ENROLLED, replace=False) for rows in corpus.rows_of]
        first, second = (
            unit(np.stack([corpus.embeddings[rows[part]].mean(axis=0) for rows in drawn]))
            for part in (slice(ENROLLED), slice(ENROLLED, None))
        )
        similarity = first @ second.T
        own.extend(np.diag(similarity).tolist())
        np.fill_diagonal(similarity, -1.0)
        nearest.extend(similarity.max(axis=1).tolist())
    return np.array(nearest), np.array(own)


def speech(folder: ModelFolder, corpus: Corpus, rng: np.random.Generator) -> list[tuple[str, float, float]]:
    """Return (enrolment, mean net speech in s, EER) against single recordings of all speakers."""
    drawn = [rng.choice(rows, 2 * ENROLLED + 1, replace=False) for rows in corpus.rows_of]
    tests = np.concatenate([rows[ENROLLED:] for rows in drawn])
    owner = np.repeat(np.arange(len(drawn)), ENROLLED + 1)
    same = owner[None, :] == np.arange(len(drawn))[:, None]

    def eer(models: NDArray[np.float32]) -> float:
        scores = (models @ corpus.embeddings[tests].T).ravel()
        return det_curve(scores.astype(np.float64), same.ravel()).eer().rate

    found = []
    for crop_s in CROPS_S:
        crops = []
        for number, rows in enumerate(drawn):
            whole = corpus.utterances[int(rows[0])]
            duration_s = reading.info(whole.path).duration_s
            crops.append(Utterance(str(number), whole.path, "", max(0.0, (duration_s - crop_s) / 2), crop_s))
        table = embed(folder, crops)
        if not table.failed:
            found.append((f"{crop_s:g} s of one", float(table.speech.mean()), eer(unit(table.embeddings))))
    for count in range(1, ENROLLED + 1):
        models = unit(np.stack([corpus.embeddings[rows[:count]].mean(axis=0) for rows in drawn]))
        speech_s = float(np.mean([corpus.speech_s[rows[:count]].sum() for rows in drawn]))
        found.append((f"{count} whole", speech_s, eer(models)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, metavar="LIST", help="recordings with speakers"
    )
    parser.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="folder that relative paths start from"
    )
    parser.add_argument("--model", type=Path, metavar="MODEL", help="default: the built-in starter model")
    parser.add_argument("--false-objections", type=float, default=0.01, metavar="F", help="default: 0.01")
    parser.add_argument("--name", help="of the recordings, for the file (default: the list's)")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write enrolment.toml here")
    arguments = parser.parse_args()
    resources.use(arguments.threads)
    folder = load_for_inference(arguments.model)
    corpus = read_corpus(folder, read_manifest(arguments.manifest, arguments.audio_root))
    rng = np.random.default_rng(0)
    share = arguments.false_objections
    print(f"{len(corpus.rows_of)} speakers of {arguments.manifest}, model {folder.fingerprint}")

    enrolments = speech(folder, corpus, rng)
    for name, speech_s, rate in enrolments:
        print(f"enrolment of {name}: {speech_s:.1f} s of speech, EER {100 * rate:.1f} %")
    enough = [speech_s for _, speech_s, rate in enrolments if rate <= ENOUGH_EER]
    min_speech_s = round(min(enough), 1)
    limits = {}
    for name, (right, wrong), quantile in (
        ("min_sample", samples(corpus, rng), share),
        ("max_twin", twins(corpus, rng), 1 - share),
        ("min_voices", voices(folder, corpus, rng), share),
    ):
        limit = float(np.quantile(right, quantile))
        caught = np.mean(wrong > limit if name == "max_twin" else wrong < limit)
        limits[name] = round(limit, 3)
        print(
            f"{name} {limit:.3f}: objects to {100 * share:g} % that are right, finds {100 * caught:.1f} % wrong"
        )
    result = EnrolmentLimits(
        fingerprint=folder.fingerprint,
        measured_on=arguments.name or str(arguments.manifest),
        min_speech_s=min_speech_s,
        **limits,
    )
    print(f"min_speech_s {min_speech_s:g}: the least with an EER of at most {100 * ENOUGH_EER:g} %")
    if arguments.out:
        write_atomically(arguments.out, toml.format_toml(toml.to_dict(result)))


if __name__ == "__main__":
    main()
