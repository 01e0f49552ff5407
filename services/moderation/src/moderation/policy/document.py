"""The schema of a policy file. It is closed: what is not named here is refused."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from moderation.features import Head

Clause = Literal["R3.a", "R3.b", "R3.c", "R3.d", "R3.e", "R3.f", "R3.g", "R5.1", "R5.2", "R5.3"]
RuleAction = Literal["hold", "block"]
RuleTool = Literal["email", "telephony", "widget", "form"]
TextPlace = Literal["subject", "text", "html", "link", "filename"]
HostKind = Literal[
    "raw-ip", "punycode", "lookalike", "displayed-differs", "brand", "brand-misspelt", "shortener", "free-host",
    "suspicious-ending", "listed", "credential-path", "redirect", "user-info", "deep-host", "bare", "young-shape",
]  # fmt: skip
FileKind = Literal[
    "eicar", "double-extension", "executable", "script", "macro", "encrypted", "nested", "bomb", "web-page", "listed",
    "signature",
]  # fmt: skip
Status = Literal["draft", "shadow", "active"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Expression = Annotated[str, Field(min_length=1, max_length=2000)]
Domain = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*$", max_length=253)]

Pattern = Annotated[str, Field(min_length=3, max_length=1000)]
Words = Annotated[str, Field(min_length=1, max_length=500)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextPatterns(_Closed):
    """Any of these patterns in any of these places of a mail.

    With `own_words`, not where the text reports what another said (`moderation.reported`).
    """

    places: Annotated[tuple[TextPlace, ...], Field(min_length=1)] = ("subject", "text", "html")
    any: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    own_words: bool = False


class LinkConditions(_Closed):
    """A link to a host of any of these kinds (none named: any host), near any of these patterns (none: anywhere).

    A pattern is near a link when it stands within `within_characters` of the link's address or shown text, or in a
    part in which neither is written out (HTML keeps addresses out of sight).
    """

    hosts: tuple[HostKind, ...] = ()
    near: tuple[Pattern, ...] = ()
    within_characters: Annotated[int, Field(ge=1, le=10_000)] = 400

    @model_validator(mode="after")
    def _narrows_something(self) -> Self:
        if not self.hosts and not self.near:
            raise ValueError("name hosts, or near, or both: this would match every mail with a link")
        return self


class AttachmentConditions(_Closed):
    """An attachment, or a member of a zip archive, of any of these kinds."""

    any: Annotated[tuple[FileKind, ...], Field(min_length=1)]


class Match(_Closed):
    """What a rule looks for; exactly one of the three."""

    patterns: TextPatterns | None = None
    links: LinkConditions | None = None
    attachments: AttachmentConditions | None = None

    @model_validator(mode="after")
    def _is_one_of_three(self) -> Self:
        if sum(part is not None for part in (self.patterns, self.links, self.attachments)) != 1:
            raise ValueError("give exactly one of patterns, links, attachments")
        return self


class ExampleLink(_Closed):
    """A link of an example mail."""

    url: Words
    shown: str = ""


class ExampleAttachment(_Closed):
    """An attachment of an example mail; `base64` keeps signatures out of the file."""

    filename: str
    base64: Base64Bytes = b""


class ExampleMail(_Closed):
    """A mail that a rule must match or let pass; `scores` stand in for what models would say.

    `features` stand in for what a mail alone does not tell (lists, other scanners).
    """

    subject: str = ""
    text: str = ""
    html: str = ""
    sender: str = ""
    reply_to: str = ""
    scores: dict[Head, Probability] = {}
    features: dict[str, float] = {}
    links: tuple[ExampleLink, ...] = ()
    attachments: tuple[ExampleAttachment, ...] = ()


Example = str | ExampleMail


class Bound(_Closed):
    """Between which shares of the messages of its tools a rule applies; outside, the policy is taken back by itself.

    Judged from `messages_min` messages on, with 99.5 % confidence (Wilson's interval).
    """

    share_max: Annotated[float, Field(gt=0, le=1)]
    share_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    messages_min: Annotated[int, Field(ge=100)] = 1000

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.share_min >= self.share_max:
            raise ValueError("share_min must be below share_max")
        return self


class Cap(_Closed):
    """How many messages a rule may stop in a day (UTC); `then` is what it does with those beyond."""

    messages_per_day: Annotated[int, Field(ge=1)]
    then: Literal["hold", "allow"] = "hold"


class Rule(_Closed):
    """One rule: what it looks for, which clause it rests on, what follows, who answers for it, and its own tests."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+$", max_length=80)]
    clause: Clause
    head: Head | None = None
    tools: Annotated[tuple[RuleTool, ...], Field(min_length=1)]
    description: Words
    action: RuleAction
    severity: Annotated[int, Field(ge=1, le=5)]
    owner: Annotated[str, Field(min_length=1, max_length=80)]
    status: Status = "active"
    match: Match | None = None
    when: Expression | None = None
    bound: Bound | None = None
    cap: Cap | None = None
    matches: Annotated[tuple[Example, ...], Field(min_length=1)]
    passes: Annotated[tuple[Example, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _looks_for_something(self) -> Self:
        if self.match is None and self.when is None:
            raise ValueError("give match, or when, or both: this would match every message")
        return self

    @model_validator(mode="after")
    def _is_capped_to_less(self) -> Self:
        if self.cap is not None and self.cap.then == self.action:
            raise ValueError("cap.then: the rule holds already; say allow")
        return self


class Threshold(_Closed):
    """From which probability on a head counts; a tool may have its own."""

    default: Probability
    tools: dict[RuleTool, Probability] = {}


class Weight(_Closed):
    """Evidence for a head: log-odds added to its score when the expression is true."""

    when: Expression
    weight: Annotated[float, Field(ge=-10, le=10)]


class Signals(_Closed):
    """How tier 0 moves a head: on its own from `bias` (log-odds), beside a model from what the model says.

    `share` scales the weights when a model has spoken, since it has seen part of the same evidence.
    """

    bias: Annotated[float, Field(ge=-20, le=0)] = -6.0
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    weights: Annotated[tuple[Weight, ...], Field(min_length=1)]


class Hosts(_Closed):
    """What the kinds of links are told by: brands with their own sites, and lists of registrable domains or endings."""

    brands: dict[Name, Annotated[tuple[Domain, ...], Field(min_length=1)]] = {}
    shorteners: tuple[Domain, ...] = ()
    free_hosts: tuple[Domain, ...] = ()
    suspicious_endings: tuple[Domain, ...] = ()
    free_mail: tuple[Domain, ...] = ()


class PolicyDocument(_Closed):
    """A whole policy: rules in the order that people read them; the worst action of all that match wins.

    `banks` are named patterns (feature `bank.<name>`: how many different ones occur), `definitions` named expressions,
    `signatures` YARA rules for attachments,
    `signals` the evidence of tier 0 for each head, `thresholds` from where on a head counts (`over.<head>`).
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
    version: Annotated[int, Field(ge=1)]
    description: Words
    hosts: Hosts = Hosts()
    signatures: Annotated[str, Field(max_length=200_000)] = ""
    banks: dict[Name, Annotated[tuple[Pattern, ...], Field(min_length=1)]] = {}
    definitions: dict[Name, Expression] = {}
    thresholds: dict[Head, Threshold] = {}
    signals: dict[Head, Signals] = {}
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        names = [rule.id for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rule defined twice: {', '.join(twice)}")
        return self

    def threshold(self, head: Head, tool: RuleTool) -> float:
        """Return from which probability on a head counts for a tool."""
        found = self.thresholds.get(head)
        return DEFAULT_THRESHOLD if found is None else float(found.tools.get(tool, found.default))


DEFAULT_THRESHOLD = 0.9
