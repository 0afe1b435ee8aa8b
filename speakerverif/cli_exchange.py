"""The subcommands that exchange models with the world: import."""

import argparse
from pathlib import Path


def add_import(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `import`."""
    add = command.add_argument
    add("kind", metavar="KIND", help="speechbrain, wespeaker, 3dspeaker or taoruijie")
    add("source", metavar="SOURCE", help="the toolkit's file or folder, or org/name on the Hugging Face hub")
    add("--out", type=Path, required=True, metavar="MODEL", help="the model folder to write")


def import_model(arguments: argparse.Namespace) -> int:
    """Write the model folder of another toolkit's checkpoint."""
    from speakerverif.importers import import_model as convert

    foreign = convert(arguments.kind, arguments.source, arguments.out)
    print(
        f"{arguments.out}: {foreign.encoder['name']}, {len(foreign.state)} tensors of {foreign.weights_file}"
    )
    return 0
