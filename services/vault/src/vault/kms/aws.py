"""The root key in AWS KMS (extra `aws`). What a key is for is the encryption context, which KMS authenticates."""

from __future__ import annotations

from typing import Any

from vault.errors import KeyFileError
from vault.keys.blobs import BlobError

_FOREIGN = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class AwsRoot:
    """A symmetric KMS key, by id, ARN or alias. Credentials and region come from the environment, as boto3 reads it."""

    def __init__(self, key_id: str, *, endpoint: str | None = None) -> None:
        self._key_id = key_id
        import boto3  # noqa: PLC0415  its HTTP library opens a socket when it is imported
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            self._client: Any = boto3.client("kms", endpoint_url=endpoint)
        except BotoCoreError as error:
            raise KeyFileError(f"{self.describe()} cannot be used: {type(error).__name__}") from None

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the wrapped key."""
        answer = self._ask("encrypt", KeyId=self._key_id, Plaintext=key, EncryptionContext=_context(place))
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, or raise BlobError."""
        answer = self._ask("decrypt", KeyId=self._key_id, CiphertextBlob=blob, EncryptionContext=_context(place))
        return bytes(answer["Plaintext"])

    def describe(self) -> str:
        """Return which key it is."""
        return f"AWS KMS key {self._key_id}"

    def _ask(self, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            return getattr(self._client, operation)(**arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _FOREIGN:
                raise BlobError("KMS did not wrap this, or for another place") from None
            raise KeyFileError(f"{self.describe()}: {operation} was refused ({code})") from None
        except BotoCoreError as error:
            raise KeyFileError(f"{self.describe()} cannot be used: {type(error).__name__}") from None


def _context(place: bytes) -> dict[str, str]:
    return {"waystation-vault": place.decode()}
