"""Pages for people: one file each, no script, nothing from elsewhere; every value is escaped."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def page(name: str, **values: Any) -> str:
    """Return a page of `vault/duties/pages`, filled in."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vault.duties", "pages"),
        autoescape=select_autoescape(disabled_extensions=("md",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = readable_moment
    environment.filters["cell"] = markdown_cell
    return environment


def readable_moment(text: str | None) -> str:
    """Return `2026-01-31 09:30:00 UTC` for a time of RFC 3339, a dash for none."""
    return "-" if text is None else text[:19].replace("T", " ") + " UTC"


def markdown_cell(value: object) -> str:
    """Return a value that stays within its cell of a Markdown table, whatever it holds."""
    text = " ".join(str(value).split())
    for sign in "\\|<>`*_[]":
        text = text.replace(sign, "\\" + sign)
    return text
