"""A policy's own tests: each rule matches what it says it matches, and lets pass what it says it lets pass."""

from __future__ import annotations

from email.utils import getaddresses
from typing import TYPE_CHECKING

from moderation.domain import judge
from moderation.examination import examine
from moderation.features import HEADS
from moderation.mail import AttachmentPart, Correspondent, Link, MailParts, TextPart
from moderation.mail.hypertext import read_html
from moderation.mail.parts import LINKS_MAX
from moderation.mail.read import links_in, links_of_page
from moderation.policy.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.policy.document import Example, Rule
    from moderation.policy.reading import Policy


_UNLIKELY = 0.001


def require_examples(policy: Policy) -> None:
    """Raise PolicyError when a rule breaks its own examples: such a policy is not what its author meant."""
    if broken := list(broken_examples(policy)):
        raise PolicyError("; ".join(broken))


def broken_examples(policy: Policy) -> Iterator[str]:
    """Yield each example that does not come out as the policy says; drafts are not asked."""
    for rule in policy.document.rules:
        if rule.status == "draft":
            continue
        for wanted, name, examples in ((True, "matches", rule.matches), (False, "passes", rule.passes)):
            for number, example in enumerate(examples):
                matched = applies(rule, example, policy)
                if matched is not wanted:
                    yield f"rule {rule.id}: {name}[{number}] {'matches' if matched else 'does not match'}"


def applies(rule: Rule, example: Example, policy: Policy) -> bool:
    """Whether a rule (active or shadow) applies to an example, in the first of its tools."""
    found = examine(example_mail(example), policy, rule.tools[0])
    given = {} if isinstance(example, str) else example.scores
    scores: dict[str, float] | None = {head: given.get(head, _UNLIKELY) for head in HEADS} if given else None
    for name, value in () if isinstance(example, str) else example.features.items():
        found.values[policy.compiled.names.index(name)] = value
    decision = judge(found, policy, scores)
    return rule.id in decision.rules or rule.id in decision.shadow


def example_mail(example: Example) -> MailParts:
    """Return the mail that an example stands for; a plain text is the text of a mail, its links are found in it."""
    if isinstance(example, str):
        return MailParts("", (TextPart("text", example),), links_in(example))
    texts = [TextPart("text", example.text)] if example.text else []
    links = [Link(link.url, link.shown or None) for link in example.links]
    if example.html:
        page = read_html(example.html, LINKS_MAX)
        texts += [TextPart("html-text", text) for text in (page.text, page.shown) if text]
        links += links_of_page(page.links, f"{page.text}\n{page.shown}")
    return MailParts(
        subject=example.subject,
        texts=tuple(texts),
        links=tuple(links) or links_in(example.text),
        attachments=tuple(
            AttachmentPart(attachment.filename, "application/octet-stream", attachment.base64)
            for attachment in example.attachments
        ),
        senders=_correspondents(example.sender),
        reply_to=_correspondents(example.reply_to),
    )


def _correspondents(value: str) -> tuple[Correspondent, ...]:
    return tuple(Correspondent(address, name or None) for name, address in getaddresses([value]) if address)
