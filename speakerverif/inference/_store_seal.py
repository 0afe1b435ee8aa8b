"""The values of an enrolment store that say who somebody is, as they are stored: plain, or sealed.

A sealed value is encrypted by AES-256-GCM with a random nonce of 96 bits, and bound to its column, row and speaker: a
value that was changed, or moved to another place, does not open. Names and hashes of recordings are looked up, so
theirs begin with a keyed hash (HMAC-SHA-256). A store's keys are derived from the user's by HKDF-SHA-256 with the
store's own salt, so that two stores with one key have nothing in common.
"""

import hashlib
import hmac
import os
from typing import Any

from speakerverif._util import extras
from speakerverif.errors import InputError

KEY_BYTES = 32
KEY_VARIABLE = "SPEAKERVERIF_STORE_KEY_FILE"
_TEXTS = {"name", "path", "sha256"}
_LOOKED_UP = {"name", "sha256"}
_SALT_BYTES, _HASH_BYTES, _NONCE_BYTES = 16, 32, 12


class Plain:
    """The form of values in a store that is not encrypted: as they are."""

    def seal(self, value: Any, column: str, row: int, speaker: int) -> Any:
        """Return a value, or None for none, as it is stored.

        Args:
            value: text or bytes.
            column: of the table.
            row: its id.
            speaker: id of the speaker whose it is.
        """
        return value

    def open(self, stored: Any, column: str, row: int, speaker: int) -> Any:
        """Return the value that `seal` was given.

        Raises:
            ValueError: it was changed, or sealed for another place; a transaction of `StoreFile` adds the file's name.
        """
        return stored

    def bounds(self, text: str, column: str) -> tuple[Any, Any]:
        """Return the least and the greatest stored value that a text can have in a column that is looked up."""
        return text, text


class Sealed(Plain):
    """The form of values in an encrypted store."""

    def __init__(self, key: bytes, mark: bytes) -> None:
        """Derive a store's keys.

        Args:
            key: the user's, `KEY_BYTES` long.
            mark: what the store notes about its encryption, of `new_mark`.

        Raises:
            InputError: another key than the mark was made with; cryptography not installed.
        """
        values_key, self._hash_key, check = _derived(key, mark[:_SALT_BYTES])
        if not hmac.compare_digest(check, mark[_SALT_BYTES:]):
            raise InputError("is encrypted with another key than the one given")
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.mark = mark
        self._cipher = AESGCM(values_key)
        self._errors = (InvalidTag, TypeError, ValueError)

    def seal(self, value: Any, column: str, row: int, speaker: int) -> Any:
        if value is None:
            return None
        plain = value.encode() if column in _TEXTS else value
        prefix = self._hash(value, column) if column in _LOOKED_UP else b""
        nonce = os.urandom(_NONCE_BYTES)
        try:
            return prefix + nonce + self._cipher.encrypt(nonce, plain, _place(column, row, speaker) + prefix)
        except OverflowError as error:
            raise InputError(
                f"an encrypted {column} may have 2 GB at most, found {len(plain)} bytes"
            ) from error

    def open(self, stored: Any, column: str, row: int, speaker: int) -> Any:
        if stored is None:
            return None
        start = _HASH_BYTES if column in _LOOKED_UP else 0
        try:
            place = _place(column, row, speaker) + stored[:start]
            body = start + _NONCE_BYTES
            plain = self._cipher.decrypt(stored[start:body], stored[body:], place)
        except self._errors as error:
            raise ValueError(
                f"the {column} in row {row} was changed, or belongs elsewhere; restore a backup"
            ) from error
        return plain.decode() if column in _TEXTS else plain

    def bounds(self, text: str, column: str) -> tuple[Any, Any]:
        prefix = self._hash(text, column)
        return prefix, prefix + b"\xff" * (_NONCE_BYTES + 1)

    def _hash(self, text: str, column: str) -> bytes:
        return hmac.digest(
            self._hash_key, f"{column}/{text}".encode("utf-8", "surrogatepass"), hashlib.sha256
        )


def new_mark(key: bytes) -> bytes:
    """Return what a store that is to be encrypted notes: a random salt, and what recognizes the key."""
    salt = os.urandom(_SALT_BYTES)
    return salt + _derived(key, salt)[2]


def _derived(key: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the key of the values, the key of the hashes, and bytes that recognize the user's key."""
    extras.require("encrypt", "an encrypted store")
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    keys = HKDF(SHA256(), 3 * KEY_BYTES, salt, b"speakerverif enrolment store").derive(key)
    return keys[:KEY_BYTES], keys[KEY_BYTES : 2 * KEY_BYTES], keys[2 * KEY_BYTES :]


def _place(column: str, row: int, speaker: int) -> bytes:
    return f"{column}/{speaker}/{row}/".encode()
