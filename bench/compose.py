"""What composing and reading an e-mail costs: microseconds a mail, best of five rounds.

Run: python bench/compose.py
"""

from __future__ import annotations

import timeit
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import partial
from typing import TYPE_CHECKING

from ingestion.mime import Attachment, Email, Mailbox, compose, original
from moderation.mail import read_mail

if TYPE_CHECKING:
    from collections.abc import Callable

SENDER = Mailbox("service@shop.example", "Nordlicht Shop")
RECIPIENT = Mailbox("erika@example.org", "Erika Mustermann")
DATE = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
LINE = "Your order has left our house and will reach you within two days.\n"
TEXT = LINE * (2048 // len(LINE))
HTML = "<p>" + TEXT + "</p>"
CYRILLIC = "Ваш заказ передан в доставку и прибудет к вам через два дня.\n" * 20
GERMAN = "Ihre Bestellung ist unterwegs und trifft übermorgen bei Ihnen ein.\n" * 30
URL = "https://shop.example/unsubscribe/7f0a5be2"
ROUNDS, MAILS = 5, 500


def composed(email: Email) -> bytes:
    return compose(
        email,
        sender=SENDER,
        recipient=RECIPIENT,
        message_id="0197a2b4-5c1e-7d34-9b6a-2f1c3d4e5f60",
        date=DATE,
        content_bytes_max=25 * 1024 * 1024,
    ).content


def standard_library() -> bytes:
    message = EmailMessage()
    message["From"], message["To"] = f"{SENDER.name} <{SENDER.address}>", f"{RECIPIENT.name} <{RECIPIENT.address}>"
    message["Subject"] = "Your order is on its way"
    message.set_content(TEXT)
    return message.as_bytes()


def main() -> None:
    plain = Email("Your order is on its way", text=TEXT, unsubscribe_url=URL)
    pdf = Attachment("invoice.pdf", "application/pdf", bytes(range(256)) * 400)
    emails = {
        "2 KB text": plain,
        "2 KB text, quoted-printable (German)": Email("Ihre Bestellung für übermorgen", text=GERMAN),
        "2 KB text, base64 (Cyrillic)": Email("Ваш заказ в пути", text=CYRILLIC),
        "2 KB text and 2 KB HTML": Email(plain.subject, text=TEXT, html=HTML),
        "2 KB text and a 100 KB attachment": Email(plain.subject, text=TEXT, attachments=(pdf,)),
    }
    print(f"{'microseconds a mail':40} {'compose':>9} {'original':>9} {'read_mail':>9}")
    for name, email in emails.items():
        raw = composed(email)
        steps = (partial(composed, email), partial(original, raw, content_bytes_max=1 << 25), partial(read_mail, raw))
        print(f"{name:40} {' '.join(f'{microseconds(step):9.1f}' for step in steps)}")
    print(f"{'2 KB text, EmailMessage':40} {microseconds(standard_library):9.1f}")


def microseconds(step: Callable[[], object]) -> float:
    return min(timeit.repeat(step, number=MAILS, repeat=ROUNDS)) / MAILS * 1e6


if __name__ == "__main__":
    main()
