"""The root key in the transit engine of Vault or OpenBao (extra `transit`). What a key is for is associated data."""

from __future__ import annotations

import base64
from typing import Any

from vault.errors import KeyFileError
from vault.keys.blobs import BlobError


class TransitRoot:
    """A key of type aes256-gcm96 in a transit engine."""

    def __init__(self, url: str, token: str, key_name: str, *, mount: str = "transit") -> None:
        self._key_name = key_name
        self._mount = mount
        import hvac  # noqa: PLC0415  its HTTP library opens a socket when it is imported

        self._client: Any = hvac.Client(url=url, token=token)

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the wrapped key: the engine's own text form, which names the version of its key."""
        answer = self._ask("encrypt_data", plaintext=_b64(key), associated_data=_b64(place))
        return str(answer["data"]["ciphertext"]).encode()

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, or raise BlobError."""
        try:
            text = blob.decode("ascii")
        except UnicodeDecodeError:
            raise BlobError("the transit engine did not wrap this") from None
        answer = self._ask("decrypt_data", ciphertext=text, associated_data=_b64(place))
        return base64.b64decode(answer["data"]["plaintext"])

    def describe(self) -> str:
        """Return which key it is."""
        return f"transit key {self._mount}/{self._key_name}"

    def _ask(self, operation: str, **arguments: str) -> Any:
        from hvac.exceptions import InvalidRequest, VaultError  # noqa: PLC0415
        from requests import RequestException  # noqa: PLC0415

        try:
            return getattr(self._client.secrets.transit, operation)(
                name=self._key_name, mount_point=self._mount, **arguments
            )
        except InvalidRequest:
            if operation == "decrypt_data":
                raise BlobError("the transit engine did not wrap this, or for another place") from None
            raise KeyFileError(f"{self.describe()}: the engine refused to encrypt; does the key exist?") from None
        except (VaultError, RequestException) as error:
            raise KeyFileError(f"{self.describe()} cannot be used: {type(error).__name__}") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
