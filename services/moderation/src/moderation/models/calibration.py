"""From raw logits to probabilities: a line per head and tier (Platt 1999), tiers mixed in logit space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """What each head makes of the logits: alone `slope * linear + offset`, with tier 2 a weighted sum of both."""

    slope: NDArray[np.float32]
    offset: NDArray[np.float32]
    linear_weight: NDArray[np.float32]
    encoder_weight: NDArray[np.float32]
    both_offset: NDArray[np.float32]

    def of_linear(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities from tier 1 alone."""
        return sigmoid(logits * self.slope + self.offset)

    def logits_of(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return of which logits of tier 1 alone these are the probabilities; `of_linear` the other way round."""
        odds: NDArray[np.float32] = np.log(probabilities / (1 - probabilities))
        return (odds - self.offset) / self.slope

    def of_both(self, linear: NDArray[np.float32], encoder: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities from both tiers."""
        return sigmoid(linear * self.linear_weight + encoder * self.encoder_weight + self.both_offset)


def lowered(probabilities: NDArray[np.float32], log_odds: float) -> NDArray[np.float32]:
    """Return probabilities with so much less log-odds."""
    odds = probabilities * np.float32(np.exp(-log_odds))
    found: NDArray[np.float32] = odds / (odds + 1 - probabilities)
    return found


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)); beyond 30 it is as at 30."""
    return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)
