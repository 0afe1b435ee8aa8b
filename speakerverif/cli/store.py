"""The commands that change an enrolment store: enroll, and `store` with its actions."""

import argparse
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerverif.cli import decide, options, sources
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.inference.enroll import Enrolment

FAILURE = 1

log = logging.getLogger(__name__)


def add_enroll(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `enroll`."""
    add = command.add_argument
    add("name", nargs="?", metavar="NAME", help="the speaker's name")
    add("files", nargs="*", type=Path, metavar="FILE", help="recordings of the speaker")
    add("--folder", type=Path, metavar="DIR", help="enrol many: a folder of recordings per speaker, in DIR")
    add("--manifest", type=Path, metavar="LIST", help="enrol many: a list of recordings with their speakers")
    add("--audio-root", type=Path, metavar="DIR", help="folder that relative paths in LIST start from")
    add("--store", type=Path, required=True, metavar="DIR", help="made where there is none")
    add("--model", type=Path, metavar="MODEL", help=options.BUILT_IN)
    add("--force", action="store_true", help="enrol what the checks object to")
    add(
        "--keep-audio",
        action="store_true",
        help="keep the recordings in the store, so that `store migrate` needs no other files",
    )
    add("--json", type=Path, metavar="FILE", help="write what was enrolled")


def enroll(arguments: argparse.Namespace) -> int:
    """Add speakers' recordings to a store, all of a speaker or none; return 1 if a speaker was not enrolled."""
    from speakerverif._util.files import write_json
    from speakerverif.inference.enroll import enroll_people
    from speakerverif.inference.enrollment import Store
    from speakerverif.inference.people import people_of_folder, people_of_manifest, person

    if sum(bool(given) for given in (arguments.name, arguments.folder, arguments.manifest)) != 1:
        raise InputError("give NAME and recordings, or --folder DIR, or --manifest LIST")
    if arguments.name and not arguments.files:
        raise InputError(f"{arguments.name}: name the recordings to enrol")
    folder = decide.load(arguments, briefly=not (arguments.folder or arguments.manifest))
    rate = folder.model.sample_rate
    if arguments.folder:
        people = people_of_folder(arguments.folder, rate)
    elif arguments.manifest:
        people = people_of_manifest(arguments.manifest, arguments.audio_root, rate)
    else:
        people = [person(arguments.name, options.recordings(arguments.files), rate)]

    channel = options.single_channel(arguments, "enroll")
    people = [dataclasses.replace(somebody, channel=channel) for somebody in people]

    def opened() -> Store:
        return Store(arguments.store, folder.fingerprint, create=True)

    results, refused = enroll_people(
        folder,
        opened,
        people,
        force=arguments.force,
        keep_audio=arguments.keep_audio,
        device=arguments.device,
    )
    for result in results:
        print(_line(result, arguments.store))
    if not all(result.checked for result in results):
        log.info("%s has no enrolment.toml: only repeated recordings were looked for", folder.path)
    if arguments.name and refused:
        raise InputError(refused[arguments.name])
    for reason in refused.values():
        print(f"not enrolled: {reason}")
    if arguments.json:
        record = {"enrolled": [result.to_json() for result in results], "refused": refused}
        write_json(arguments.json, record)
    return FAILURE if refused else 0


def _line(result: "Enrolment", store: Path) -> str:
    repeated = f"; {result.repeated} not counted again" if result.repeated else ""
    several = "s" * (result.recordings != 1)
    return f"{result.name}: {result.recordings} recording{several} enrolled in {store}{repeated}"


def add_store(command: argparse.ArgumentParser) -> None:
    """Add the actions of `store`."""
    actions = command.add_subparsers(metavar="ACTION", required=True)
    key_help = "file of an encrypted store's key (default: the one that SPEAKERVERIF_STORE_KEY_FILE names)"

    def add(name: str, summary: str, act: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("--store", type=Path, required=True, metavar="DIR", help="the store")
        action.add_argument("--key-file", type=Path, metavar="KEY", help=key_help)
        action.set_defaults(act=act)
        return action

    listing = add("list", "list the enrolled speakers", _list)
    listing.add_argument("--json", type=Path, metavar="FILE", help="write the list here")
    rename = add("rename", "give a speaker another name", _rename)
    rename.add_argument("name", metavar="NAME", help="the present name")
    rename.add_argument("new_name", metavar="NEW", help="the new one")
    remove = add("remove", "remove speakers; nothing of them stays in the store's files", _remove)
    remove.add_argument("names", nargs="+", metavar="NAME", help="who")
    export = add("export", "write speakers to a file that another store of this model imports", _export)
    export.add_argument("names", nargs="*", metavar="NAME", help="who (default: everybody)")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="file to write")
    export.add_argument(
        "--plain", action="store_true", help="export an encrypted store; the file is not encrypted"
    )
    imported = add("import", "add the speakers of an exported file", _import)
    imported.add_argument("file", type=Path, metavar="FILE.npz", help="file that `store export` wrote")
    backup = add("backup", "copy the store, while others may use it", _backup)
    backup.add_argument(
        "--out", dest="copy", type=Path, required=True, metavar="DIR", help="folder of the copy"
    )
    summary = "write a new random key for encrypted stores to a file that only its owner can read"
    keygen = actions.add_parser("keygen", help=summary, description=summary)
    keygen.add_argument("key_file", type=Path, metavar="KEY", help="file to write; must not exist")
    keygen.set_defaults(act=_keygen)
    add("encrypt", "encrypt names, embeddings, paths and kept audio", _encrypt)
    add("decrypt", "make an encrypted store plain again", _decrypt)
    rekey = add("rekey", "encrypt an encrypted store with another key", _rekey)
    rekey.add_argument("--new-key-file", type=Path, required=True, metavar="KEY", help="file of the new key")
    migrate = add("migrate", "embed all recordings again, for another model", _migrate)
    migrate.add_argument("--model", type=Path, required=True, metavar="MODEL", help="the other model")
    migrate.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="folder of recordings that were moved"
    )
    options.add_compute(migrate)
    sources.add_engine(migrate)


def run_store(arguments: argparse.Namespace) -> int:
    """Run an action of `store`."""
    arguments.act(arguments)
    return 0


def _store(arguments: argparse.Namespace) -> Any:
    from speakerverif.inference.enrollment import Store

    return Store(arguments.store, key_file=arguments.key_file)


def _list(arguments: argparse.Namespace) -> None:
    import dataclasses

    from speakerverif._util.files import write_json

    store = _store(arguments)
    speakers = store.speakers()
    if store.encrypted:
        log.info("%s is encrypted", arguments.store)
    print("name\trecordings\tspeech_s\tkept_audio\tenrolled_at")
    for speaker in speakers:
        speech = "" if speaker.speech_s is None else f"{speaker.speech_s:.1f}"
        print(
            f"{speaker.name}\t{speaker.recordings}\t{speech}\t{speaker.kept_audio}\t{speaker.enrolled_at or ''}"
        )
    if arguments.json:
        record = {
            "fingerprint": store.fingerprint,
            "encrypted": store.encrypted,
            "speakers": [dataclasses.asdict(speaker) for speaker in speakers],
        }
        write_json(arguments.json, record)


def _rename(arguments: argparse.Namespace) -> None:
    _store(arguments).rename(arguments.name, arguments.new_name)
    print(f"{arguments.name} is now {arguments.new_name}")


def _remove(arguments: argparse.Namespace) -> None:
    store = _store(arguments)
    for name in dict.fromkeys(arguments.names):
        count = store.remove(name)
        print(f"{name}: {count} recording{'s' * (count != 1)} removed")


def _export(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_export import export

    store = _store(arguments)
    count = export(store, arguments.out, arguments.names or None, plain=arguments.plain)
    warning = "; not encrypted, unlike the store" if store.encrypted else ""
    print(f"{arguments.out}: {count} speaker{'s' * (count != 1)}{warning}")


def _import(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_export import import_file

    people, added = import_file(arguments.file, arguments.store, arguments.key_file)
    print(f"{arguments.store}: {added} recordings of {people} speakers added")


def _backup(arguments: argparse.Namespace) -> None:
    _store(arguments).backup(arguments.copy)
    print(arguments.copy)


def _keygen(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_encryption import write_key

    write_key(arguments.key_file)
    print(f"{arguments.key_file}: keep a copy elsewhere; a store can't be opened without its key")


def _encrypt(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_encryption import reseal

    reseal(arguments.store, None, _key(arguments.key_file))
    print(f"{arguments.store}: encrypted")


def _decrypt(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_encryption import reseal

    reseal(arguments.store, _key(arguments.key_file), None)
    print(f"{arguments.store}: not encrypted any more")


def _rekey(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_encryption import reseal

    reseal(arguments.store, _key(arguments.key_file), _key(arguments.new_key_file))
    print(f"{arguments.store}: encrypted with the key in {arguments.new_key_file}")


def _key(path: Path | None) -> bytes:
    from speakerverif.inference.store_encryption import read_key

    key = read_key(path)
    if key is None:
        raise InputError("name the file of the key: --key-file or SPEAKERVERIF_STORE_KEY_FILE")
    return key


def _migrate(arguments: argparse.Namespace) -> None:
    from speakerverif.inference.store_export import migrate

    folder = decide.load(arguments)
    count = migrate(_store(arguments), folder, arguments.audio_root, arguments.device)
    print(f"{arguments.store}: {count} recordings embedded again, for {folder.name} {folder.fingerprint}")
