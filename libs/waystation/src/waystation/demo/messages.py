"""The demo's messages, read from `messages.yaml`: what is sent, and what must become of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

VERDICT_LEADS_TO = {"allow": "handed_over", "hold": "held", "block": "refused"}
NO_BASIS = "none"


@dataclass(frozen=True, slots=True)
class Business:
    """An account of the demo."""

    id: str
    name: str
    about: str
    inboxes: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class DemoMessage:
    """One message with what must become of it.

    `item` is its JSON for the door. `action`, `clause` and `rule` are those of the verdict it must get, `ends` the
    state in which it must rest; `door` is the problem with which the door refuses it, if it does.
    """

    key: str
    wave: str
    business: str
    recipient: str
    subject: str
    item: dict[str, Any]
    action: str = "allow"
    clause: str | None = None
    rule: str | None = None
    ends: str = "handed_over"
    door: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """Everything the demo sends."""

    businesses: tuple[Business, ...]
    messages: tuple[DemoMessage, ...]

    def wave(self, name: str) -> list[DemoMessage]:
        """Return the messages of one wave."""
        return [message for message in self.messages if message.wave == name]


def load_script() -> Script:
    """Return the demo's script."""
    return read_script(files(__package__).joinpath("messages.yaml").read_text(encoding="utf-8"))


def read_script(text: str) -> Script:
    """Return a script from its YAML; raises KeyError where a template names what its row does not have."""
    document = yaml.safe_load(text)
    businesses = tuple(
        Business(key, given["name"], given["about"], tuple(given["inboxes"]))
        for key, given in document["accounts"].items()
    )
    messages = [message for number, mail in enumerate(document["mails"], 1) for message in _messages(mail, number)]
    return Script(businesses, tuple(messages))


def _messages(mail: dict[str, Any], number: int) -> list[DemoMessage]:
    return [_message(mail, row, f"demo-{number:02d}-{place:02d}") for place, row in enumerate(mail["rows"], 1)]


def _message(mail: dict[str, Any], row: dict[str, str], key: str) -> DemoMessage:
    words = {"first": row["name"].partition(" ")[0], **row}
    item = _item(mail, words, key)
    action = mail.get("action", "allow")
    return DemoMessage(
        key=key,
        wave=mail["wave"],
        business=mail["account"],
        recipient=row["to"],
        subject=item["content"]["subject"],
        item=item,
        action=action,
        clause=mail.get("clause"),
        rule=mail.get("rule"),
        ends=row.get("ends", VERDICT_LEADS_TO[action]),
        door=mail.get("door"),
    )


def _item(mail: dict[str, Any], words: dict[str, str], key: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        name: mail[name].format_map(words) for name in ("subject", "text", "html") if name in mail
    }
    if "unsubscribe" in mail:
        content["unsubscribe_url"] = mail["unsubscribe"]
    if "attachments" in mail:
        content["attachments"] = [_attachment(given, words) for given in mail["attachments"]]
    item = {
        "tool": "email",
        "inbox": mail["inbox"],
        "recipient": {"address": words["to"], "name": words["name"]},
        "content": content,
        "purpose": mail["purpose"],
        "reference": words.get("order", key),
        "idempotency_key": key,
    }
    if mail["basis"] != NO_BASIS:
        item["legal_basis"] = {"kind": mail["basis"], "attested": True}
    return item


def _attachment(given: dict[str, str], words: dict[str, str]) -> dict[str, str]:
    encoded = given.get("base64") or base64.b64encode(given["text"].format_map(words).encode()).decode()
    return {
        "filename": given["filename"].format_map(words),
        "content_type": given["content_type"],
        "content": encoded,
    }
