"""Measure the names of turns: conversations of enrolled speakers and as many strangers, drawn from embedded recordings.

    speakerverif embed --manifest corpora/speechocean762/dev --audio-root corpora/speechocean762 --out dev.npz
    python tools/conversations.py --embeddings dev.npz --speakers corpora/speechocean762/dev/utt2spk

The speakers are halved at random, so that a rule which was chosen on one half is seen on the other. Each draw takes
ten speakers of a half, enrols recordings of five, and makes a turn of each of several other recordings of all ten. A
turn of an enrolled speaker is named right with that name, one of a stranger as unknown.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Utterance
from speakerverif.data.speakers import read_speakers
from speakerverif.inference.conversation import LLR_PER_DOUBLING, UNKNOWN, name_embedded
from speakerverif.inference.engines import load_for_inference
from speakerverif.inference.enroll import EnrolmentLimits
from speakerverif.inference.samples import Sample
from speakerverif.inference.scale import Scale

ENROLLED = 5  # and as many strangers
# Enrolled recordings of each speaker, and turns of each.
CASES = ((4, 4), (1, 4), (4, 2), (8, 8))


@dataclass(frozen=True)
class Conversation:
    """A drawn conversation, by rows of the table of all recordings.

    Attributes:
        enrolled: speaker -> rows of the enrolled recordings.
        turns: (speaker, row) of each turn, in order.
    """

    enrolled: dict[str, list[int]]
    turns: list[tuple[str, int]]


def draw(
    owner: NDArray[np.str_], speakers: NDArray[np.str_], recordings: int, turns: int, seed: int
) -> Conversation:
    """Return a conversation of `ENROLLED` speakers and as many strangers.

    Args:
        owner: speaker of each recording.
        speakers: to draw from.
        recordings: enrolled, of each enrolled speaker.
        turns: of each speaker.
        seed: of all choices.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.choice(speakers, 2 * ENROLLED, replace=False).tolist()
    rows = {name: rng.permutation(np.flatnonzero(owner == name)).tolist() for name in drawn}
    spoken = [(name, row) for name in drawn for row in rows[name][recordings : recordings + turns]]
    order = rng.permutation(len(spoken)).tolist()
    return Conversation(
        {name: rows[name][:recordings] for name in drawn[:ENROLLED]}, [spoken[i] for i in order]
    )


def seconds_right(
    table: EmbeddingTable,
    conversation: Conversation,
    scale: Scale,
    min_similarity: float,
    labels: bool,
    llr_per_doubling: float = LLR_PER_DOUBLING,
) -> tuple[float, float]:
    """Return the seconds of turns that are named right, and of all turns.

    Args:
        table: of all recordings.
        conversation: drawn from them.
        scale: of the model.
        min_similarity: of the turns of a label.
        labels: whether turns have the labels of an errorless diarizer, or none.
        llr_per_doubling: as `name_embedded` takes it.
    """
    rows = [row for _, row in conversation.turns]
    columns = table.embeddings[rows], table.durations[rows], table.speech[rows]
    turns = [
        Utterance(str(i), "conversation", name if labels else "", 0.0, float(table.durations[row]))
        for i, (name, row) in enumerate(conversation.turns)
    ]
    people = [
        [Sample(table.embeddings[row], speech_s=float(table.speech[row])) for row in own]
        for own in conversation.enrolled.values()
    ]
    named = name_embedded(
        (list(conversation.enrolled), people),
        turns,
        EmbeddingTable([turn.id for turn in turns], *columns, ["ok"] * len(rows), table.fingerprint),
        scale=scale,
        min_similarity=min_similarity,
        llr_per_doubling=llr_per_doubling,
    )
    right = 0.0
    for turn, (name, _) in zip(named, conversation.turns, strict=True):
        expected = turn.name == name if name in conversation.enrolled else turn.name.startswith(UNKNOWN)
        right += turn.duration_s * expected
    return right, float(table.durations[rows].sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings", type=Path, required=True, metavar="E.npz", help="of the recordings")
    parser.add_argument("--speakers", type=Path, required=True, metavar="utt2spk", help="their speakers")
    parser.add_argument(
        "--model", type=Path, metavar="MODEL", help="that embedded them (default: the built-in)"
    )
    parser.add_argument("--draws", type=int, default=60, metavar="N", help="per half and case (default: 60)")
    parser.add_argument(
        "--per-doubling",
        type=float,
        nargs="+",
        default=[0.0, LLR_PER_DOUBLING],
        metavar="L",
        help="rise of the threshold per doubling of the speech (default: none, and the package's)",
    )
    arguments = parser.parse_args()
    table = EmbeddingTable.load(arguments.embeddings)
    folder = load_for_inference(arguments.model)
    scale, limits = Scale.of(folder), EnrolmentLimits.of(folder)
    min_similarity = -1.0 if limits is None else limits.min_sample
    speaker_of = read_speakers(arguments.speakers, list(table.ids))
    owner = np.array([speaker_of[i] for i in table.ids])
    shuffled = np.random.default_rng(7).permutation(np.unique(owner))
    halves = np.array_split(shuffled, 2)
    print(
        f"{len(shuffled)} speakers, model {table.fingerprint}, {arguments.draws} draws per half; each half:"
    )
    print("percent of the speech time named right, mean and worst draw; draws below 95 %")
    print("| enrolled recordings | turns | labels | per doubling | first half | second half |")
    print("|---|---|---|---|---|---|")
    for recordings, turns in CASES:
        for labels in (True, False):
            for llr in arguments.per_doubling:
                cells = []
                for half in halves:
                    counted = np.array(
                        [
                            seconds_right(
                                table,
                                draw(owner, half, recordings, turns, seed),
                                scale,
                                min_similarity,
                                labels,
                                llr,
                            )
                            for seed in range(arguments.draws)
                        ]
                    )
                    shares = counted[:, 0] / counted[:, 1]
                    mean = counted[:, 0].sum() / counted[:, 1].sum()
                    low = int((shares < 0.95).sum())
                    cells.append(f"{100 * mean:.1f}, {100 * shares.min():.1f}; {low}")
                given = "yes" if labels else "no"
                print(f"| {recordings} | {turns} | {given} | {llr:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
