"""Corpora: a folder of recordings to manifests and trial lists, one corpus a file."""

from speakerverif.corpora._prepared import (
    Prepared,
    PreparedRecordings,
    balanced_trials,
    counts,
    durations,
    kaldi_table,
    write_lists,
)

__all__ = [
    "Prepared",
    "PreparedRecordings",
    "balanced_trials",
    "counts",
    "durations",
    "kaldi_table",
    "write_lists",
]
