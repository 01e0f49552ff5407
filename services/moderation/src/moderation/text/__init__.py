"""Text as people read it: disguises undone, with the way back to what was written."""

from moderation.text.normalise import NO_SIGNS, NormalisedText, Signs, normalise
from moderation.text.words import restored, swapped_back

__all__ = ["NO_SIGNS", "NormalisedText", "Signs", "normalise", "restored", "swapped_back"]
