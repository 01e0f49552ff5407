"""The rules in force, from their file."""

from __future__ import annotations

import datetime as dt
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ingestion.domain import RulesInForce
from ingestion.errors import RulesFileError

if TYPE_CHECKING:
    from pathlib import Path


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RulesClause(_Strict):
    """One clause, as problems and decisions cite it."""

    id: Annotated[str, Field(pattern=r"^R[0-9](\.[0-9])?$")]
    text: str


class RulesText(_Strict):
    """One version of the rules."""

    version: Annotated[str, Field(min_length=1, max_length=20)]
    effective: dt.date
    title: str
    clauses: tuple[RulesClause, ...]


def load_rules(path: Path) -> RulesInForce:
    """Read the file of the version in force; its digest covers every byte of it.

    Raises:
        RulesFileError: the file cannot be read or is no text of rules.
    """
    try:
        raw = path.read_bytes()
        text = RulesText.model_validate(yaml.safe_load(raw))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RulesFileError(f"{path} is no text of rules ({error}): set INGESTION_RULES_FILE") from error
    return RulesInForce(text.version, sha256(raw).hexdigest())
