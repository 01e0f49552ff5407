"""A policy's own tests: each rule matches what it says it matches, and lets pass what it says it lets pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moderation.domain import screen
from moderation.errors import PolicyError
from moderation.mail import AttachmentPart, Link, MailParts, TextPart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.policy.document import Example
    from moderation.policy.reading import Policy


def require_examples(policy: Policy) -> None:
    """Raise PolicyError when a rule breaks its own examples: such a policy is not what its author meant."""
    if broken := list(broken_examples(policy)):
        raise PolicyError("; ".join(broken))


def broken_examples(policy: Policy) -> Iterator[str]:
    """Yield each example that does not come out as the policy says."""
    for rule in policy.document.rules:
        for wanted, name, examples in ((True, "matches", rule.matches), (False, "passes", rule.passes)):
            for number, example in enumerate(examples):
                matched = rule.id in screen(example_mail(example), policy, rule.tools[0]).rules
                if matched is not wanted:
                    yield f"rule {rule.id}: {name}[{number}] {'matches' if matched else 'does not match'}"


def example_mail(example: Example) -> MailParts:
    """Return the mail that an example stands for; a plain text is the text of a mail."""
    if isinstance(example, str):
        return MailParts("", (TextPart("text", example),))
    return MailParts(
        subject=example.subject,
        texts=(TextPart("text", example.text),) if example.text else (),
        links=tuple(Link(link.url, link.shown or None) for link in example.links),
        attachments=tuple(
            AttachmentPart(attachment.filename, "application/octet-stream", attachment.base64)
            for attachment in example.attachments
        ),
    )
