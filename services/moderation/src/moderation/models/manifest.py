"""`manifest.json` of a weights folder: which files, with which digests, and the numbers that are no matrix."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.models.heads import HEADS

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PerHead = Annotated[tuple[float, ...], Field(min_length=len(HEADS), max_length=len(HEADS))]


PerKind = tuple[float, float, float]
"""For letters, for short texts, and for texts that are not in English."""


class ModelFileError(ValueError):
    """A weights folder cannot be used; the text says which file and why."""


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LinearFigures(_Closed):
    """Calibration of tier 1 alone."""

    slope: PerHead
    offset: PerHead


class SpamFigures(_Closed):
    """When the model of spam is asked, and what becomes of its word and tier 1's: log-odds, per kind of text."""

    gate: tuple[float, float]
    """It reads an English letter, and an English short text, when tier 1's logit of spam is at least this."""
    own: PerKind
    linear: PerKind
    offset: PerKind


class EncoderFigures(_Closed):
    """How tier 2 is reached and mixed."""

    gate: PerHead
    """Tier 2 reads a text when a head's calibrated probability in tier 1 is at least this."""
    need: float
    """Or when the last column of tier 1, which learnt what needs a second look, is at least this (logit)."""
    tokens_max: Annotated[int, Field(ge=16, le=128)]
    linear_weight: PerHead
    encoder_weight: PerHead
    offset: PerHead


class Manifest(_Closed):
    """The whole document."""

    format: Literal[1]
    heads: tuple[str, ...]
    files: dict[str, Digest]
    linear: LinearFigures
    spam: SpamFigures | None = None
    encoder: EncoderFigures | None = None
    trained: dict[str, str | int | float | bool | None] = {}


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest and its SHA-256, after every file's digest was compared.

    Raises ModelFileError.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{folder / MANIFEST}: cannot be read ({error.strerror}); name a weights folder") from None
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise ModelFileError(f"{folder / MANIFEST}: {place}: {first['msg']}") from None
    if manifest.heads != HEADS:
        raise ModelFileError(f"{folder / MANIFEST}: heads: this version reads {', '.join(HEADS)}, in this order")
    for name, digest in manifest.files.items():
        _check(folder / name, digest)
    return manifest, hashlib.sha256(data).hexdigest()


def _check(file: Path, digest: str) -> None:
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelFileError(f"{file}: cannot be read ({error.strerror}); restore it or train anew") from None
    if found != digest:
        raise ModelFileError(f"{file}: SHA-256 is {found}, the manifest says {digest}; restore it or train anew")
