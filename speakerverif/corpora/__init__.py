"""Corpora: a folder of recordings to manifests and trial lists, one corpus per file."""

from speakerverif.corpora._prepare import PREPARED, prepare, prepare_joined
from speakerverif.corpora._prepared import (
    Prepared,
    PreparedRecordings,
    balanced_trials,
    counts,
    durations,
    kaldi_table,
    recordings_in,
    write_lists,
)

__all__ = [
    "PREPARED",
    "Prepared",
    "PreparedRecordings",
    "balanced_trials",
    "counts",
    "durations",
    "kaldi_table",
    "prepare",
    "prepare_joined",
    "recordings_in",
    "write_lists",
]
