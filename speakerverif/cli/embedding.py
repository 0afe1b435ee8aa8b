"""The command that embeds recordings."""

import argparse
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import _outputs, options, segments, sources
from speakerverif.cli.training import LISTS
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.audio.channels import Channel
    from speakerverif.inference.chunks import Source, Utterances
    from speakerverif.models.folder import ModelFolder

FAILURE = 1
FEW = 20  # recordings that are embedded sooner than torch is imported
_log = logging.getLogger(__name__)


def add_embed(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `embed`."""
    add = command.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="recordings, or folders of them")
    add("--manifest", type=Path, metavar="LIST", help=f"list of recordings: {LISTS}")
    add("--audio-root", type=Path, metavar="DIR", help="folder that relative paths in LIST start from")
    add("--model", type=Path, metavar="MODEL", help=options.BUILT_IN)
    add(
        "--crops",
        type=options.whole_number(0, options.MOST_AT_ONCE),
        default=0,
        metavar="N",
        help="average the embeddings of N crops (default: embed the whole utterance)",
    )
    add(
        "--windows",
        type=_windows,
        metavar="S/STEP",
        help="embed windows of S seconds every STEP seconds, as in 1.5/0.75",
    )
    segments.add_vad(command, default=None)
    add(
        "--out",
        type=Path,
        required=True,
        metavar="E.npz",
        help="table to write; its ending chooses the format: .npz, .ark (with .scp) or .parquet",
    )
    add("--json", type=Path, metavar="FILE", help="write a record of what was embedded")
    options.add_compute(command)
    sources.add_engine(command)
    options.add_batch_size(command)
    options.add_channel(command)


def _windows(text: str) -> tuple[float, float]:
    """Return length and step of windows in seconds, from text such as `1.5/0.75`."""
    try:
        window_s, step_s = (float(part) for part in text.split("/"))
    except ValueError:
        window_s = step_s = math.nan
    if not (0 < window_s < math.inf and 0 < step_s < math.inf):
        raise argparse.ArgumentTypeError(
            f"expected two lengths in seconds, as in 1.5/0.75; found {text[:40]!r}"
        )
    return window_s, step_s


def embed(arguments: argparse.Namespace) -> int:
    """Embed recordings and write the table; return 1 if some could not be embedded."""
    if bool(arguments.files) == bool(arguments.manifest):
        raise InputError("give recordings, or a list of them with --manifest")
    from speakerverif.data.formats.tables import check_ending

    check_ending(arguments.out)
    if arguments.windows and (arguments.vad or arguments.crops):
        raise InputError("--windows cuts recordings as they are: give it without --vad and --crops")
    from speakerverif._util import resources

    resources.check_device(arguments.device)
    resources.use(arguments.threads)
    from speakerverif.inference.embed import print_failures

    in_parts = arguments.manifest and not (arguments.windows or arguments.vad)
    embedded = _embed_list(arguments) if in_parts else _embed_at_once(arguments)
    print_failures(embedded.failed)
    total = embedded.count + len(embedded.failed)
    print(f"{arguments.out}: {embedded.count} of {total} recordings, {embedded.dim} dimensions")
    if arguments.json:
        from speakerverif._util.files import write_json

        record = {
            "embedded": embedded.count,
            "failed": dict(embedded.failed),
            "dim": embedded.dim,
            "model": embedded.model,
        }
        write_json(arguments.json, record)
    return FAILURE if embedded.failed else 0


@dataclass(frozen=True)
class _Embedded:
    count: int
    dim: int
    failed: Mapping[str, str]
    model: dict[str, str]


def _embed_list(arguments: argparse.Namespace) -> _Embedded:
    """Embed a list in parts, continuing an interrupted run."""
    from speakerverif._util.outputs import refuse_to_replace
    from speakerverif.audio import reading
    from speakerverif.data._manifest_files import Listed
    from speakerverif.data.formats.manifests import iter_manifest
    from speakerverif.inference.channels import channels_of
    from speakerverif.inference.embed_list import embed_list
    from speakerverif.inference.engines import load_for_inference

    if arguments.audio_root is not None and not arguments.audio_root.is_dir():
        raise InputError(f"--audio-root {arguments.audio_root}: no such folder")
    channel: Channel = None if arguments.channel == "each" else arguments.channel
    outputs = list(_outputs.outputs_of(arguments))

    def rows() -> Iterator[Listed]:
        for line, utterance in iter_manifest(arguments.manifest, arguments.audio_root):
            refuse_to_replace(outputs, [utterance.path])
            each = channels_of(utterance, reading) if arguments.channel == "each" else [utterance]
            yield from (Listed(line, channel) for channel in each)

    folder = load_for_inference(arguments.model, arguments.device, arguments.engine, arguments.precision)
    done = embed_list(
        folder,
        rows(),
        arguments.out,
        device=arguments.device,
        batch_size=arguments.batch_size,
        crops=arguments.crops,
        channel=channel,
    )
    return _Embedded(done.embedded, done.dim, done.failed, _facts(folder))


def _embed_at_once(arguments: argparse.Namespace) -> _Embedded:
    """Embed files, windows or speech segments, without resuming."""
    from speakerverif.audio.reading import Files
    from speakerverif.data.formats.manifests import read_manifest
    from speakerverif.data.formats.tables import write_table
    from speakerverif.data.manifest import Utterance
    from speakerverif.inference.channels import each_channel
    from speakerverif.inference.embed import embed, print_failures
    from speakerverif.inference.engines import load_for_inference
    from speakerverif.inference.speech_segments import SpeechOnly, windows_of

    utterances: Utterances
    if arguments.manifest:
        utterances = read_manifest(arguments.manifest, arguments.audio_root)
    else:
        files = options.recordings(arguments.files)
        ids = [_id_of(path) for path in files]
        repeated = [name for name, count in Counter(ids).items() if count > 1]
        if repeated:
            raise InputError(f"given twice: {', '.join(repeated)}")
        utterances = [Utterance(name, str(path), "") for name, path in zip(ids, files, strict=True)]
    few = len(utterances) <= FEW
    source: Source = Files(None if arguments.channel == "each" else arguments.channel)
    if arguments.channel == "each":
        utterances = each_channel(utterances, source)
    if arguments.windows:
        utterances = windows_of(utterances, *arguments.windows)
    if arguments.vad:
        source = SpeechOnly(arguments.vad, source)
        if any(u.start_s or u.duration_s is not None or u.channel is not None for u in utterances):
            raise InputError("--vad finds speech in whole recordings; these are parts or channels of them")
    folder = load_for_inference(
        arguments.model, arguments.device, arguments.engine, arguments.precision, briefly=few
    )
    table = embed(
        folder,
        utterances,
        device=arguments.device,
        batch_size=arguments.batch_size,
        crops=arguments.crops,
        source=source,
    )
    if not len(table.ids):
        print_failures(table.failed)
        raise InputError("nothing could be embedded; no file was written")
    write_table(table, arguments.out)
    return _Embedded(len(table), int(table.embeddings.shape[1]), table.failed, _facts(folder))


def _id_of(path: Path) -> str:
    """Return the id of a recording: its path, with characters that are not valid text as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    name = "".join(
        c if ord(c) >= 160 or 32 <= ord(c) < 127 else c.encode("unicode_escape").decode() for c in text
    )
    if name != str(path):
        _log.warning(f"{name}: the file's name is no printable UTF-8 text; this is its id in the table")
    return name


def _facts(folder: "ModelFolder") -> dict[str, str]:
    names = ("name", "fingerprint", "engine", "precision")
    return {name: getattr(folder, name) for name in names}
