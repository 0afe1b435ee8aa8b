"""The command that embeds recordings."""

import argparse
from collections import Counter
from pathlib import Path

from speakerverif.cli import options, sources
from speakerverif.cli._compute import prepare_compute
from speakerverif.cli.training import LISTS
from speakerverif.errors import InputError

FAILURE = 1


def add_embed(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `embed`."""
    add = command.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="recordings")
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


def embed(arguments: argparse.Namespace) -> int:
    """Embed recordings and write the table; 1 where some of them could not be embedded."""
    prepare_compute(arguments)
    from speakerverif._util.files import write_json
    from speakerverif.data.formats.manifests import read_manifest
    from speakerverif.data.formats.tables import write_table
    from speakerverif.data.manifest import Utterance
    from speakerverif.inference.embed import embed, print_failures
    from speakerverif.inference.engines import load_for_inference

    if bool(arguments.files) == bool(arguments.manifest):
        raise InputError("give recordings, or a list of them with --manifest")
    utterances = (
        read_manifest(arguments.manifest, arguments.audio_root)
        if arguments.manifest
        else [Utterance(str(path), str(path), "") for path in arguments.files]
    )
    repeated = [str(path) for path, count in Counter(arguments.files).items() if count > 1]
    if repeated:
        raise InputError(f"given twice: {', '.join(repeated)}")
    folder = load_for_inference(arguments.model, arguments.device, arguments.engine)
    table = embed(
        folder,
        utterances,
        device=arguments.device,
        batch_size=arguments.batch_size,
        crops=arguments.crops,
    )
    print_failures(table)
    if not len(table.ids):
        raise InputError("nothing could be embedded; no file was written")
    write_table(table, arguments.out)
    print(
        f"{arguments.out}: {len(table.ids)} of {len(utterances)} recordings, {table.embeddings.shape[1]} dimensions"
    )
    if arguments.json:
        record = {
            "embedded": len(table.ids),
            "failed": dict(table.failed),
            "dim": int(table.embeddings.shape[1]),
            "model": {"name": folder.name, "fingerprint": folder.fingerprint, "engine": folder.engine},
        }
        write_json(arguments.json, record)
    return FAILURE if table.failed else 0
