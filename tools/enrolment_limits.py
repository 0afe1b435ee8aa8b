"""Measure the limits of a model's enrolment checks on recordings of known speakers, and write `enrolment.toml`.

    speakerverif embed --manifest corpora/A --audio-root corpora/A --out a.npz      # and b.npz of corpora/B
    python tools/enrolment_limits.py --manifest corpora/A --embeddings a.npz --audio-root corpora/A \\
        --manifest corpora/B --embeddings b.npz --audio-root corpora/B --out enrolment.toml

The share `--false-objections` of right enrolments may be objected to by any check. It is split evenly over the checks
that compare voices, each of which takes the worst similarity of a whole enrolment; the amount of speech objects to
none of these, and its limit is measured on the first corpus. The share of wrong enrolments that each limit finds is
printed beside it. The recordings must be of speakers whom the model was not trained on; wrong
enrolments mix speakers of one corpus.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif._util import resources, toml
from speakerverif._util.files import write_atomically
from speakerverif.audio import reading
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.evaluation.metrics import det_curve
from speakerverif.inference.embed import embed
from speakerverif.inference.engines import load_for_inference
from speakerverif.inference.enroll import EnrolmentLimits, similarities_to_others
from speakerverif.inference.recordings import Recordings
from speakerverif.inference.voices import similarity_within
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring.normalization import unit

ENROLLED = 4  # recordings per enrolment, at most; the least is 2
JOINED = 3  # recordings joined to one
DRAWS = 20  # enrolments of each speaker, one of which is joined to one recording too
CROPS_S = (0.5, 1.0, 1.5, 2.0, 3.0)
ENOUGH_EER = 0.10  # enough speech: no higher EER than this
CHECKS = ("min_sample", "max_twin", "min_voices")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """Recordings by speaker, and their unit embeddings float32 (N, D).

    Attributes:
        utterances: the recordings.
        rows_of: of each speaker.
        embeddings: of the recordings.
        speech_s: in the recordings.
        name: of the corpus of each speaker.
    """

    utterances: list[Utterance]
    rows_of: list[NDArray[np.int64]]
    embeddings: NDArray[np.float32]
    speech_s: NDArray[np.float32]
    name: NDArray[np.str_]

    def of(self, name: str) -> "Corpus":
        """Return the same with the speakers of one corpus only."""
        kept = np.flatnonzero(self.name == name)
        return replace(self, rows_of=[self.rows_of[i] for i in kept], name=self.name[kept])

    def other(self, speaker: int, rng: np.random.Generator) -> int:
        """Return another speaker of the same corpus."""
        others = np.flatnonzero(self.name == self.name[speaker])
        return int(rng.choice(others[others != speaker]))


@dataclass(frozen=True)
class Similarities:
    """The similarity that a check judges an enrolment by, of right enrolments and of wrong ones.

    Attributes:
        right: (speakers, draws); the same enrolments for all checks.
        wrong: (speakers, draws).
    """

    right: Array
    wrong: Array


def read_corpora(places: Sequence[tuple[Path, Path | None, Path]], fingerprint: str) -> Corpus:
    """Return the recordings of all speakers who have enough of them.

    Args:
        places: manifest, audio root and embeddings of each corpus.
        fingerprint: of the model.

    Raises:
        InputError: embeddings of another model.
    """
    utterances: list[Utterance] = []
    tables, rows_of, names = [], [], []
    for list_path, root, table_path in places:
        manifest, table = read_manifest(list_path, root), EmbeddingTable.load(table_path)
        if table.fingerprint != fingerprint:
            raise InputError(f"{table_path}: of model {table.fingerprint}, expected {fingerprint}")
        utterances_of = {utterance.id: utterance for utterance in manifest}
        owner = np.array([utterances_of[i].speaker for i in table.ids])
        for speaker in np.unique(owner):
            rows = np.flatnonzero(owner == speaker)
            if len(rows) >= 2 * ENROLLED + 1:
                rows_of.append(rows + len(utterances))
                names.append(list_path.name)
        utterances += [utterances_of[i] for i in table.ids]
        tables.append(table)
    embeddings = unit(np.concatenate([table.embeddings for table in tables]))
    speech_s = np.concatenate([table.speech for table in tables])
    return Corpus(utterances, rows_of, embeddings, speech_s, np.array(names))


def draw(corpus: Corpus, rng: np.random.Generator) -> list[list[NDArray[np.int64]]]:
    """Return the rows of `DRAWS` right enrolments of each speaker: of two, three and four recordings in turn."""
    return [
        [rng.choice(rows, 2 + number % (ENROLLED - 1), replace=False) for number in range(DRAWS)]
        for rows in corpus.rows_of
    ]


def samples(
    corpus: Corpus, enrolled: list[list[NDArray[np.int64]]], rng: np.random.Generator
) -> Similarities:
    """Return the least similarity of a recording to the others; in wrong enrolments, one is of another speaker."""
    right = np.zeros((len(enrolled), DRAWS))
    wrong = np.zeros_like(right)
    for speaker, draws in enumerate(enrolled):
        for number, rows in enumerate(draws):
            right[speaker, number] = similarities_to_others(corpus.embeddings[rows]).min()
            mixed = rows.copy()
            mixed[0] = rng.choice(corpus.rows_of[corpus.other(speaker, rng)])
            wrong[speaker, number] = similarities_to_others(corpus.embeddings[mixed]).min()
    return Similarities(right, wrong)


def twins(corpus: Corpus, enrolled: list[list[NDArray[np.int64]]], rng: np.random.Generator) -> Similarities:
    """Return the similarity to the nearest of all others enrolled, and to the speaker's own second enrolment."""
    right = np.zeros((len(enrolled), DRAWS))
    wrong = np.zeros_like(right)
    for number in range(DRAWS):
        given = [draws[number] for draws in enrolled]
        second = [
            rng.choice(np.setdiff1d(rows, first), ENROLLED, replace=False)
            for rows, first in zip(corpus.rows_of, given, strict=True)
        ]
        model, store = (
            unit(np.stack([corpus.embeddings[rows].mean(axis=0) for rows in side]))
            for side in (given, second)
        )
        similarity = model @ store.T
        wrong[:, number] = np.diag(similarity)
        np.fill_diagonal(similarity, -1.0)
        right[:, number] = similarity.max(axis=1)
    return Similarities(right, wrong)


def voices(
    folder: ModelFolder, corpus: Corpus, enrolled: list[list[NDArray[np.int64]]], rng: np.random.Generator
) -> Similarities:
    """Return the similarities within joined recordings of one speaker, and of two, one of each per speaker."""
    joined_rows = next(i for i in range(DRAWS) if len(enrolled[0][i]) == JOINED)

    def within(rows: NDArray[np.int64]) -> float:
        rate = folder.model.sample_rate
        parts = [reading.read(corpus.utterances[row].path, sample_rate=rate) for row in rows.tolist()]
        joined = Recordings([np.concatenate(parts)], rate, rate)
        return similarity_within(folder, joined.names[0], joined.info(joined.names[0]).duration_s, joined)

    right, wrong = [], []
    for speaker, draws in enumerate(enrolled):
        rows = draws[joined_rows].copy()
        right.append([within(rows)])
        rows[-1] = rng.choice(corpus.rows_of[corpus.other(speaker, rng)])
        wrong.append([within(rows)])
    return Similarities(np.array(right), np.array(wrong))


def objects(check: str, similarity: Array, limit: float) -> NDArray[np.bool_]:
    """Return where a check objects."""
    return similarity > limit if check == "max_twin" else similarity < limit


def speech(
    folder: ModelFolder, corpus: Corpus, rng: np.random.Generator
) -> list[tuple[str, NDArray[np.float32], float]]:
    """Return (enrolment, net speech of each speaker in s, EER) against single recordings of all speakers."""
    drawn = [rng.choice(rows, 2 * ENROLLED + 1, replace=False) for rows in corpus.rows_of]
    tests = np.concatenate([rows[ENROLLED:] for rows in drawn])
    owner = np.repeat(np.arange(len(drawn)), ENROLLED + 1)
    same = owner[None, :] == np.arange(len(drawn))[:, None]

    def eer(models: NDArray[np.float32]) -> float:
        scores = (models @ corpus.embeddings[tests].T).ravel()
        return det_curve(scores.astype(np.float64), same.ravel()).eer().rate

    enrolments = []
    for crop_s in CROPS_S:
        crops = []
        for number, rows in enumerate(drawn):
            whole = corpus.utterances[int(rows[0])]
            duration_s = reading.info(whole.path).duration_s
            crops.append(Utterance(str(number), whole.path, "", max(0.0, (duration_s - crop_s) / 2), crop_s))
        table = embed(folder, crops)
        if not table.failed:
            enrolments.append((f"{crop_s:g} s of one", table.speech, eer(unit(table.embeddings))))
    for count in range(1, ENROLLED + 1):
        models = unit(np.stack([corpus.embeddings[rows[:count]].mean(axis=0) for rows in drawn]))
        speech_s = np.array([corpus.speech_s[rows[:count]].sum() for rows in drawn], np.float32)
        enrolments.append((f"{count} whole", speech_s, eer(models)))
    return enrolments


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        required=True,
        action="append",
        metavar="LIST",
        help="recordings with speakers; as often as there are corpora, and so are the next two",
    )
    parser.add_argument(
        "--embeddings", type=Path, required=True, action="append", metavar="E.npz", help="of them"
    )
    parser.add_argument(
        "--audio-root",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder that relative paths start from",
    )
    parser.add_argument("--model", type=Path, metavar="MODEL", help="default: the built-in starter model")
    parser.add_argument("--false-objections", type=float, default=0.01, metavar="F", help="default: 0.01")
    parser.add_argument("--name", help="of the recordings, for the file (default: the lists')")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write enrolment.toml here")
    arguments = parser.parse_args()
    resources.use(arguments.threads)
    folder = load_for_inference(arguments.model)
    roots = arguments.audio_root or [None] * len(arguments.manifest)
    places = list(zip(arguments.manifest, roots, arguments.embeddings, strict=True))
    corpus = read_corpora(places, folder.fingerprint)
    rng = np.random.default_rng(0)
    share = arguments.false_objections / len(CHECKS)
    name = arguments.name or ", ".join(str(path) for path in arguments.manifest)
    enrolled = draw(corpus, rng)
    print(f"{len(enrolled)} speakers of {name}, model {folder.fingerprint}")

    first = corpus.of(corpus.name[0])
    enrolments = speech(folder, first, rng)
    means = [round(float(speech_s.mean()), 1) for _, speech_s, _ in enrolments]
    min_speech_s = min(
        mean for mean, (_, _, rate) in zip(means, enrolments, strict=True) if rate <= ENOUGH_EER
    )
    print(f"{len(first.rows_of)} speakers of {arguments.manifest[0].name}:")
    for mean, (enrolment, speech_s, rate) in zip(means, enrolments, strict=True):
        too_little = 100 * np.mean(speech_s < min_speech_s)
        print(
            f"enrolment of {enrolment}: {mean:.1f} s of speech, EER {100 * rate:.1f} %, too little {too_little:.0f} %"
        )
    print(f"min_speech_s {min_speech_s:g}: the least with an EER of at most {100 * ENOUGH_EER:g} %")
    measured = {
        "min_sample": samples(corpus, enrolled, rng),
        "max_twin": twins(corpus, enrolled, rng),
        "min_voices": voices(folder, corpus, enrolled, rng),
    }
    limits = {}
    for check, of in measured.items():
        # Of few enrolments, the limit objects to none rather than to more than the share.
        if check == "max_twin":
            limits[check] = math.ceil(1000 * float(np.quantile(of.right, 1 - share, method="higher"))) / 1000
        else:
            limits[check] = math.floor(1000 * float(np.quantile(of.right, share, method="lower"))) / 1000
        print(f"{check} {limits[check]:.3f}: {of.right.size} right enrolments, {of.wrong.size} wrong ones")
    corpora = np.unique(corpus.name).tolist()
    print("\nobjected to, percent:\n")
    print(f"| enrolments | {' | '.join(['all', *corpora])} |")
    print(f"|---{'|---' * (1 + len(corpora))}|")
    rows: dict[str, Array] = {}
    for kind in ("right", "wrong"):
        for check, of in measured.items():
            rows[f"{kind}, by {check}"] = objects(check, getattr(of, kind), limits[check]).mean(axis=1)
    # A speaker's enrolments as recordings, and one of them as a single recording.
    by_recordings = objects("min_sample", measured["min_sample"].right, limits["min_sample"])
    by_recordings = by_recordings | objects("max_twin", measured["max_twin"].right, limits["max_twin"])
    rows["right, by any check"] = by_recordings.mean(axis=1) + rows["right, by min_voices"]
    for row, of_speaker in rows.items():
        cells = [of_speaker, *(of_speaker[corpus.name == one] for one in corpora)]
        print(f"| {row} | {' | '.join(f'{100 * cell.mean():.2f}' for cell in cells)} |")
    result = EnrolmentLimits(
        fingerprint=folder.fingerprint, measured_on=name, min_speech_s=min_speech_s, **limits
    )
    if arguments.out:
        write_atomically(arguments.out, toml.format_toml(toml.to_dict(result)))


if __name__ == "__main__":
    main()
