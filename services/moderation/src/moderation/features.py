"""What is known of a message when rules judge it: named features, each with its kind and meaning.

A feature that may be *unknown* (None) makes what hangs on it unknown too: neither true nor false, see
`moderation.policy.expressions`. All others always have a value.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["number", "text"]
Value = float | str | None

Head = Literal["hate", "toxic", "threat", "sexual", "gambling", "drugs", "weapons", "extremism", "phish", "spam"]
HEADS: tuple[Head, ...] = (
    "hate",
    "toxic",
    "threat",
    "sexual",
    "gambling",
    "drugs",
    "weapons",
    "extremism",
    "phish",
    "spam",
)
"""The categories that models score, in the order of every list of scores."""

LINK_KINDS = (
    "raw_ip", "punycode", "lookalike", "displayed_differs", "brand", "brand_misspelt", "shortener", "free_host",
    "suspicious_ending", "listed", "credential_path", "redirect", "user_info", "deep_host", "bare", "young_shape",
)  # fmt: skip
FILE_KINDS = (
    "eicar", "double_extension", "executable", "script", "macro", "encrypted", "nested", "bomb", "web_page", "listed",
    "signature",
)  # fmt: skip


class Feature(NamedTuple):
    """`unknown` tells whether the feature may have no value."""

    name: str
    kind: Kind
    unknown: bool
    meaning: str


def _features() -> tuple[Feature, ...]:
    number: Kind = "number"
    text: Kind = "text"
    plain: list[tuple[str, Kind, bool, str]] = [
        ("text.characters", number, False, "characters of subject and texts together"),
        ("text.capitals", number, False, "share of capitals among letters, 0 for texts of under 20 letters"),
        ("text.exclamations", number, False, "exclamation marks"),
        ("text.digits", number, False, "digits"),
        ("disguise.invisible", number, False, "invisible characters between letters"),
        ("disguise.lookalikes", number, False, "letters of other shapes or scripts that read as Latin ones"),
        ("disguise.leet", number, False, "words with digits or signs for letters, or drawn out"),
        ("disguise.spaced", number, False, "letters written apart"),
        ("language", text, True, "ISO 639-1 code; unknown for short or mixed texts"),
        ("links.count", number, False, "links with a host"),
        ("links.hosts", number, False, "different hosts"),
        *((f"links.{kind}", number, False, f"links of the kind {kind}") for kind in LINK_KINDS),
        ("mail.name_is_other_brand", number, False, "1: the sender shows a protected brand and writes from elsewhere"),
        ("mail.name_is_other_address", number, False, "1: the sender's shown name is another mail address"),
        ("mail.reply_elsewhere", number, False, "1: answers go to another domain than the sender's"),
        ("mail.free_sender", number, False, "1: the sender's address is at a free mail provider"),
        ("mail.authentication_failed", number, True, "1: SPF, DKIM or DMARC failed (inbound mail only)"),
        ("attachments.count", number, False, "attachments"),
        *((f"attachments.{kind}", number, False, f"attachments that are or hold: {kind}") for kind in FILE_KINDS),
        ("velocity.messages_per_minute", number, True, "messages of the account in the last minute"),
        ("velocity.same_text_share", number, True, "share of the account's last messages with nearly this text"),
        ("velocity.recipient_overlap", number, True, "share of the account's recents that went to this recipient"),
        (
            "clamd.infected",
            number,
            True,
            "1: ClamAV names a signature; unknown where clamd is not configured or silent",
        ),
        ("rspamd.score", number, True, "rspamd's score over its required score; unknown as above"),
        *(
            (f"score.{head}", number, True, f"probability of {head}; unknown without models and signals")
            for head in HEADS
        ),
    ]
    return tuple(Feature(*row) for row in plain)


FEATURES = _features()
INDEX = {feature.name: number for number, feature in enumerate(FEATURES)}
LINKS_AT = {kind.replace("_", "-"): INDEX[f"links.{kind}"] for kind in LINK_KINDS}
FILES_AT = {kind.replace("_", "-"): INDEX[f"attachments.{kind}"] for kind in FILE_KINDS}
"""Where the features of each kind stand, by the name of the kind in policies."""
SCORES_AT = INDEX["score.hate"]
SCORES_END = SCORES_AT + len(HEADS)
TEMPLATE: tuple[Value, ...] = tuple(None if feature.unknown else 0 for feature in FEATURES)
"""A message of which nothing is known yet; copy it and fill in."""
