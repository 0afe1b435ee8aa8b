"""Recordings of many people: one folder per person, or a list with names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speakerverif.audio import reading
from speakerverif.audio.channels import Channel
from speakerverif.audio.files import SUFFIXES
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.recordings import Recording, Recordings


@dataclass(frozen=True)
class Person:
    """A name and the recordings of its speaker, which are read when they are needed.

    Attributes:
        name: the speaker's.
        given: files, and parts of files.
        model_rate: Hz at which parts are kept.
        channel: of recordings that have several and name none.
    """

    name: str
    given: Sequence[Path | Utterance]
    model_rate: int
    channel: Channel = None

    def recordings(self) -> Recordings:
        """Return the recordings; parts of files are read into memory."""
        given: list[Recording] = [
            recording if isinstance(recording, Path) else self._part(recording) for recording in self.given
        ]
        return Recordings(given, self.model_rate, self.model_rate, self.channel)

    def _part(self, utterance: Utterance) -> Recording:
        channel = self.channel if utterance.channel is None else utterance.channel
        return reading.read(utterance.path, utterance.start_s, utterance.duration_s, self.model_rate, channel)


def person(name: str, files: Sequence[Path], model_rate: int) -> Person:
    """Return a person whose recordings are given as files."""
    return Person(name, files, model_rate)


def people_of_folder(folder: Path, model_rate: int) -> list[Person]:
    """Return the people of a folder that holds one folder of recordings per person, sorted by name.

    Audio files count, at any depth; other files and what begins with a dot do not.

    Raises:
        InputError: no such folder; a person without recordings.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder that holds one folder of recordings per speaker")
    people = []
    for own in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(
            path
            for path in own.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(own).parts)
        )
        if not files:
            raise InputError(f"{own}: no recordings in it; expected files such as .wav or .flac")
        people.append(Person(own.name, files, model_rate))
    if not people:
        raise InputError(f"{folder}: expected a folder of recordings per speaker in it, found none")
    return people


def people_of_manifest(path: Path, audio_root: Path | None, model_rate: int) -> list[Person]:
    """Return the people of a list of recordings, in the order of their first one.

    Raises:
        InputError: a wrong list; a recording without a speaker.
    """
    people: dict[str, list[Path | Utterance]] = {}
    for utterance in utterances_of_people(path, audio_root):
        whole = (utterance.start_s, utterance.duration_s, utterance.channel) == (0, None, None)
        people.setdefault(utterance.speaker, []).append(Path(utterance.path) if whole else utterance)
    return [Person(name, given, model_rate) for name, given in people.items()]


def utterances_of_people(path: Path, audio_root: Path | None) -> list[Utterance]:
    """Return the recordings of a list in which each has a speaker.

    Raises:
        InputError: a wrong list; a recording without a speaker.
    """
    manifest = read_manifest(path, audio_root)
    utterances = [manifest[i] for i in range(len(manifest))]
    for utterance in utterances:
        if not utterance.speaker:
            raise InputError(f"{path}: {utterance.id!r} has no speaker; expected one for each recording")
    return utterances
