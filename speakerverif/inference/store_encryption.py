"""Keys of encrypted enrolment stores, and encryption, decryption and change of the key of a whole store."""

import os
from pathlib import Path

from speakerverif._util.files import open_input
from speakerverif.errors import InputError
from speakerverif.inference._store_file import StoreFile
from speakerverif.inference._store_index import StoreIndex
from speakerverif.inference._store_seal import KEY_BYTES, KEY_VARIABLE, Plain, Sealed, new_mark

_COLUMNS = ("embedding", "path", "sha256", "audio")


def write_key(path: str | Path) -> None:
    """Write a new random key to a file that its owner alone can read.

    Raises:
        InputError: there is such a file already; it can't be written.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise InputError(f"{path}: exists already; a key is never overwritten") from error
    except OSError as error:
        raise InputError(f"{path}: can't write: {error.strerror}") from error


def read_key(path: str | Path | None) -> bytes | None:
    """Return the key in a file; without a path, of the file that SPEAKERVERIF_STORE_KEY_FILE names, or None.

    Raises:
        InputError: no such file, or it holds something else.
    """
    path = path or os.environ.get(KEY_VARIABLE)
    if not path:
        return None
    with open_input(path) as file:
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        size = f"{len(key)} bytes" if len(key) < KEY_BYTES else "more"
        raise InputError(
            f"{path}: not a key of `speakerverif store keygen`: expected {KEY_BYTES} bytes, found {size}"
        )
    return key


def reseal(folder: str | Path, key: bytes | None, new_key: bytes | None) -> None:
    """Write all personal values of a store again under another key, all of them or none.

    The old values are overwritten in the file, and the file is built anew without them. A search index is deleted.

    Args:
        folder: of the store.
        key: its key; None: it is plain.
        new_key: from then on; None: it becomes plain.

    Raises:
        InputError: another key than the store's; damaged values; the store can't be written to.
    """
    file = StoreFile(Path(folder), None, create=False, key=key)
    with file.writing() as db:
        old, mark = db.seal, None if new_key is None else new_mark(new_key)
        new = Plain() if new_key is None or mark is None else Sealed(new_key, mark)
        for speaker, name in db.execute("SELECT id, name FROM speakers").fetchall():
            name = new.seal(old.open(name, "name", speaker, speaker), "name", speaker, speaker)
            db.execute("UPDATE speakers SET name = ? WHERE id = ?", (name, speaker))
        for row, speaker in db.execute("SELECT id, speaker FROM utterances").fetchall():
            stored = db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM utterances WHERE id = ?", (row,)
            ).fetchone()
            values = [
                new.seal(old.open(value, column, row, speaker), column, row, speaker)
                for column, value in zip(_COLUMNS, stored, strict=True)
            ]
            db.execute(f"UPDATE utterances SET {' = ?, '.join(_COLUMNS)} = ? WHERE id = ?", (*values, row))
        db.execute("DELETE FROM meta WHERE key = 'seal'")
        if mark is not None:
            db.execute("INSERT INTO meta VALUES ('seal', ?)", (mark,))
        db.execute("UPDATE meta SET value = value + 1 WHERE key = 'removals'")
        StoreIndex(Path(folder)).delete()
    file.key = new_key
    file.compact()
