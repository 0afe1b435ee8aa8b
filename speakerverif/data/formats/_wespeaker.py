"""WeSpeaker's lists: raw lists, one JSON object per line, and lists of shards, one tar archive per line."""

from collections.abc import Iterator
from pathlib import Path

from speakerverif._util.tar import Part, members
from speakerverif.data import _text
from speakerverif.data._manifest_files import Listed, Utterance, is_there
from speakerverif.data._rows import WrongRows
from speakerverif.data.formats import _json_lines
from speakerverif.errors import InputError

# Endings of other members of a shard with a recording's name.
NOTES = (".spk", ".vad")
LONGEST_SPEAKER = 1024  # bytes


def read(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Listed]:
    """Yield the utterances of a raw list or a list of shards; rows that can't be read go to `wrong`."""
    first = next(_text.lines(path, raw_paths=True), None)
    if first is not None and first.text.startswith("{"):
        yield from _json_lines.read(path, root, wrong)
        return
    for line in _text.lines(path, raw_paths=True):
        candidates = [path.parent / line.text, Path(line.text)] if root is None else [root / line.text]
        shard = next(filter(is_there, candidates), candidates[0])
        try:
            for utterance in _utterances(shard):
                yield Listed(line.number, utterance)
        except InputError as error:
            wrong.add(line.number, line.raw, str(error))


def _utterances(shard: Path) -> Iterator[Utterance]:
    entries = list(members(shard))
    speakers = {name.removesuffix(".spk"): part for name, part in entries if name.endswith(".spk")}
    recordings = [(name, part) for name, part in entries if Path(name).suffix not in NOTES]
    if not recordings:
        raise InputError("no recordings in this shard")
    for name, part in recordings:
        key = name.removesuffix(Path(name).suffix)
        speaker = _speaker(speakers[key], name) if key in speakers else ""
        # The shard is located here: its headers had to be read.
        yield Utterance(key, str(part._replace(archive=str(shard.absolute()))), speaker)


def _speaker(part: Part, name: str) -> str:
    if part.length > LONGEST_SPEAKER:
        raise InputError(f"the speaker of {name} has {part.length:,} bytes; expected a name")
    text = part.open().read()
    try:
        return text.decode().strip(_text.BLANKS)
    except UnicodeDecodeError:
        raise InputError(f"the speaker of {name} is {_text.wrong_encoding(text)}") from None
