"""Every metric of the five services: name, unit, attributes and the question that it answers.

Names are those of OpenTelemetry's semantic conventions where these have one, else they begin with `waystation.`.
`docs/metrics.md` is generated from this file (`make contracts`); a name that does not stand here cannot be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROAD_SECONDS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0, 86400.0)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; attribute values come in the order of `attributes`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    tells: str
    answers: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """The name under which `/metrics` shows it, by OpenTelemetry's rules for Prometheus."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return self.name.replace(".", "_") + unit + ("_total" if self.kind == "counter" else "")


HTTP_SERVER_DURATION = Metric(
    "http.server.request.duration",
    "histogram",
    "s",
    "How long the service took to answer an HTTP request.",
    "How fast is the door? Who gets refusals?",
    ("http.request.method", "http.route", "http.response.status_code"),
    SECONDS,
)
HTTP_CLIENT_DURATION = Metric(
    "http.client.request.duration",
    "histogram",
    "s",
    "How long a call to the vault took; one call serves a batch. Without an answer the status is the error's type.",
    "Is the vault slow, or away?",
    ("http.request.method", "url.template", "http.response.status_code"),
    SECONDS,
)
CONSUMED_MESSAGES = Metric(
    "messaging.client.consumed.messages",
    "counter",
    "{message}",
    "Records that the group has handled; a record that comes again counts again.",
    "How many messages a second does each stage handle?",
    ("messaging.system", "messaging.destination.name", "messaging.consumer.group.name"),
)
SENT_MESSAGES = Metric(
    "messaging.client.sent.messages",
    "counter",
    "{message}",
    "Records that Kafka acknowledged.",
    "How many messages a second leave each stage?",
    ("messaging.system", "messaging.destination.name"),
)
PROCESS_DURATION = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "How long a group took for one batch, from its first record in hand to the commit. `error.type` is empty when it "
    "went well.",
    "Which stage is slow? Which one repeats its batches?",
    ("messaging.system", "messaging.destination.name", "messaging.consumer.group.name", "error.type"),
    SECONDS,
)
SEND_DURATION = Metric(
    "messaging.client.operation.duration",
    "histogram",
    "s",
    "How long Kafka took to acknowledge one publishing, which may be of many records.",
    "Is Kafka slow?",
    ("messaging.system", "messaging.operation.name", "error.type"),
    SECONDS,
)
CONSUMER_LAG = Metric(
    "waystation.consumer.lag",
    "gauge",
    "{message}",
    "Records on the partitions of this copy that its group has not handled yet.",
    "Does a stage fall behind?",
    ("messaging.destination.name", "messaging.consumer.group.name"),
)
STAGE_AGE = Metric(
    "waystation.stage.oldest.age",
    "gauge",
    "s",
    "How long the oldest message of a stage has waited there: of a group since Kafka stored it, of the outbox since it "
    "was committed, of the hand-over since it was due. 0 when nothing waits.",
    "Where do messages wait, and for how long?",
    ("waystation.stage",),
)
DEAD_LETTERS = Metric(
    "waystation.dead_letters",
    "counter",
    "{message}",
    "Records that this copy put into the group's dead letters.",
    "Do records fail for good?",
    ("messaging.consumer.group.name",),
)
DELETED_UNREAD = Metric(
    "waystation.records.deleted_unread",
    "counter",
    "{record}",
    "Records that Kafka had deleted (by age, or at somebody's order) before the group read them, as this copy saw when "
    "it took their partitions over.",
    "Is something lost for good?",
    ("messaging.consumer.group.name",),
)
UNAUTHORISED = Metric(
    "waystation.records.unauthorised",
    "gauge",
    "{record}",
    "Rows of the table `unauthorised`: records that came without a genuine signature. Counted up to 100,000.",
    "Does somebody forge?",
)
OUTBOX_RECORDS = Metric(
    "waystation.outbox.records",
    "gauge",
    "{message}",
    "Rows that this copy has committed and Kafka has not acknowledged.",
    "Is publishing behind?",
)
STANDINGS_AGE = Metric(
    "waystation.standings.age",
    "gauge",
    "s",
    "Seconds since Kafka confirmed that this copy knows every standing; above 1 routing begins no attempt.",
    "Does a copy work with old standings?",
)
DOOR_ITEMS = Metric(
    "waystation.door.items",
    "counter",
    "{message}",
    "Messages that came to the door, by outcome: `admitted`, or the kind of the problem that refused them.",
    "How much comes in, how much is refused, and why?",
    ("waystation.outcome",),
)
VERDICTS = Metric(
    "waystation.verdicts",
    "counter",
    "{message}",
    "Verdicts that this copy reached and stored, by action.",
    "How much is blocked or held?",
    ("waystation.action",),
)
POLICY_IN_FORCE = Metric(
    "waystation.policy.revision",
    "gauge",
    "{revision}",
    "The policy that this copy judges by; the number is the highest revision of any policy that it knows.",
    "Does every copy judge by the same policy?",
    ("waystation.policy",),
)
POLICIES_REFUSED = Metric(
    "waystation.policies.refused",
    "counter",
    "{policy}",
    "Statements about policies that were refused, by what is wrong: signature, order, policy.",
    "Does somebody forge policies, or send broken ones?",
    ("waystation.reason",),
)
RULE_EFFECTS = Metric(
    "waystation.rule.effects",
    "counter",
    "{message}",
    "Messages by rule and what it did: applied, capped (the day's cap is reached), shadow (would have), unsure (hangs "
    "on something unknown).",
    "What does each rule do? Which one cannot be evaluated?",
    ("waystation.rule", "waystation.effect"),
)
SHADOW_DIFFERENCES = Metric(
    "waystation.shadow.differences",
    "counter",
    "{message}",
    "Messages that the shadow policy would stop (newly-stopped) or let pass (newly-passed), by clause.",
    "What would change if the policy in shadow were active?",
    ("waystation.change", "waystation.clause"),
)
REPLAYS = Metric(
    "waystation.replays",
    "counter",
    "{verdict}",
    "Verdicts of samples that this copy replayed, by outcome: same, differs, not-replayed.",
    "Is a decision not reproducible (any `differs`)?",
    ("waystation.outcome",),
)
ATTEMPTS = Metric(
    "waystation.handover.attempts",
    "counter",
    "{attempt}",
    "Calls of the provider that ended, by result: accepted, refused, later, unreached, doubt.",
    "Does the provider take what it gets?",
    ("waystation.provider", "waystation.result"),
)
HANDOVER_DURATION = Metric(
    "waystation.handover.duration",
    "histogram",
    "s",
    "How long one call of the provider took.",
    "Is the provider slow?",
    ("waystation.provider", "waystation.result"),
    SECONDS,
)
ROAD_DURATION = Metric(
    "waystation.road.duration",
    "histogram",
    "s",
    "From admission at the door to the provider's acceptance; what was scheduled for later counts from its begin.",
    "How long does a message take, all in all?",
    (),
    ROAD_SECONDS,
)
ATTEMPTS_OPEN = Metric(
    "waystation.handover.open",
    "gauge",
    "{attempt}",
    "Attempts that have begun and whose outcome is not written yet.",
    "How much would be in doubt if this copy died now?",
)
IN_DOUBT = Metric(
    "waystation.deliveries.in_doubt",
    "gauge",
    "{message}",
    "Deliveries in doubt, of all copies. Counted up to 100,000.",
    "Does a person have to decide something?",
)
DB_CONNECTIONS = Metric(
    "db.client.connection.count",
    "gauge",
    "{connection}",
    "Connections to the service's own database, idle and used.",
    "Are all connections in use?",
    ("db.client.connection.state",),
)
CPU_TIME = Metric(
    "process.cpu.time",
    "counter",
    "s",
    "Processor time of this process.",
    "What does a message cost?",
    ("cpu.mode",),
)
MEMORY = Metric("process.memory.usage", "gauge", "By", "Resident memory of this process.", "Does memory grow?")
SPANS = Metric(
    "waystation.telemetry.spans",
    "counter",
    "{span}",
    "Spans that `ended`, that the collector took (`exported`) and that it did not (`failed`). What is "
    "missing between them was dropped: the queue was full.",
    "Are traces complete?",
    ("waystation.outcome",),
)

METRICS = (
    HTTP_SERVER_DURATION,
    HTTP_CLIENT_DURATION,
    CONSUMED_MESSAGES,
    SENT_MESSAGES,
    PROCESS_DURATION,
    SEND_DURATION,
    CONSUMER_LAG,
    STAGE_AGE,
    DEAD_LETTERS,
    DELETED_UNREAD,
    UNAUTHORISED,
    OUTBOX_RECORDS,
    STANDINGS_AGE,
    DOOR_ITEMS,
    VERDICTS,
    POLICY_IN_FORCE,
    POLICIES_REFUSED,
    RULE_EFFECTS,
    SHADOW_DIFFERENCES,
    REPLAYS,
    ATTEMPTS,
    HANDOVER_DURATION,
    ROAD_DURATION,
    ATTEMPTS_OPEN,
    IN_DOUBT,
    DB_CONNECTIONS,
    CPU_TIME,
    MEMORY,
    SPANS,
)
