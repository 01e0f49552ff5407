"""Texts as the service reads them: normalised, then restored, by the service's own code."""

from __future__ import annotations

from moderation.models.bank import shortened
from moderation.text import normalise, restored


def as_read(text: str) -> str:
    """Return what the models are given for a text in service."""
    return restored(shortened(normalise(text).text))
