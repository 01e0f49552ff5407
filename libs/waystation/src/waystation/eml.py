"""A person's own mails as request items: one item for each recipient, all with the same bytes.

Only what a request needs is read here; whether a mail can be carried is the door's to say.
"""

from __future__ import annotations

import base64
from email.parser import BytesHeaderParser
from email.policy import compat32
from email.utils import getaddresses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

MAIL_BYTES_MAX = 25 * 1024 * 1024
HEADER_BYTES_MAX = 256 * 1024


class EmlError(ValueError):
    """A file that is no mail which could be sent; the text names the file and what to do."""


def items_from_eml(path: Path) -> list[dict[str, Any]]:
    """`POST /v1/messages:batch` items for the mail in `path`: tool, inbox (From), recipient and `content.eml` (base64).

    The caller adds what a mail does not say: its purpose and legal basis.

    Raises:
        EmlError: the file cannot be read, is over 25 MiB, or names no sender or no recipient.
    """
    raw = _read(path)
    headers = BytesHeaderParser(policy=compat32).parsebytes(raw[:HEADER_BYTES_MAX])
    senders, recipients = _addresses(path, headers, "From"), _addresses(path, headers, "To", "Cc")
    if len(senders) != 1:
        raise EmlError(f"{path}: From names {len(senders)} addresses; a mail needs exactly one")
    if not recipients:
        raise EmlError(f"{path}: neither To nor Cc names a recipient; add one")
    content = {"eml": base64.b64encode(raw).decode("ascii")}
    return [
        {"tool": "email", "inbox": senders[0], "recipient": {"address": recipient}, "content": content}
        for recipient in recipients
    ]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAIL_BYTES_MAX:
            raise EmlError(f"{path}: is larger than {MAIL_BYTES_MAX} bytes; send what is large as a link")
        return path.read_bytes()
    except OSError as error:
        raise EmlError(f"{path}: cannot be read ({error.strerror}); check the name and its permissions") from None


def _addresses(path: Path, headers: Message, *names: str) -> list[str]:
    wanted = [name.lower() for name in names]
    values = [_utf8(value) for name, value in headers.raw_items() if name.lower() in wanted]
    try:
        return list(dict.fromkeys(address for _, address in getaddresses(values) if address))
    except RecursionError:  # it calls itself for each colon
        raise EmlError(f"{path}: {' or '.join(names)} is no list of addresses") from None


def _utf8(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
