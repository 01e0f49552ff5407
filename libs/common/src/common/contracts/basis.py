"""The words for a legal basis and its purpose: what a message rests on and what ends that must be the same words."""

from __future__ import annotations

from typing import Literal

BasisKind = Literal["consent", "contract", "legal_obligation", "legitimate_interest", "vital_interest", "public_task"]
"""Art. 6(1) GDPR, (a) to (f)."""
CODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:/#-]*$"
CODE_CHARACTERS_MAX = 100
"""A purpose or a reference: a code without spaces or at signs, never words about a person, for it travels readable."""
