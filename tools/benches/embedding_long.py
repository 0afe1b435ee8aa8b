"""Cases of minutes: 1,000 recordings of 2 to 20 s, and a recording of an hour with its peak memory."""

import functools
import resource

import torch

from speakerverif._util.allocator import keep_freed_memory
from speakerverif.inference.embed import embed
from tools.benches._case import Case
from tools.benches.embedding import mixed, model, recordings

HOUR_S = 3600.0


def _hour(channels: int, threads: int) -> Case:
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder, recording = model(channels), recordings(1, HOUR_S, HOUR_S)
    facts: dict[str, float | str] = {"seconds of audio": HOUR_S}

    def run() -> None:
        embed(folder, recording)
        facts["MB of the whole process at its peak"] = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )

    return Case(run, rounds=1, facts=facts)


CASES = {
    "1,000 recordings, ecapa C=512": functools.partial(mixed, 1000, 512),
    "an hour, ecapa C=512": functools.partial(_hour, 512),
    "an hour, ecapa C=1024": functools.partial(_hour, 1024),
}
