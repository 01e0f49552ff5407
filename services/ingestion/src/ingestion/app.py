"""Builds the door and says in which order its parts start and stop."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from common.events import StandingChanged
from common.events.routing import SentReceipt
from common.http.direct import include, serve_directly
from common.http.health import consumer_check, health_routes, postgres_check, table_check
from common.http.observed import observe
from common.http.server import stop_process
from common.http.vault import VaultClient
from common.kafka.consumer import Subscription, kafka_broker
from common.kafka.publisher import Publisher
from common.kafka.table import TableReader
from common.outbox import OutboxRelay
from common.postgres.pool import connect_pool
from common.postgres.recovery import recover
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.telemetry.process import Telemetry
from common.times import now
from ingestion.admission import Admission, Limits
from ingestion.api import Door, public_routes
from ingestion.body import Bodies, KnownKeys
from ingestion.coalescer import Coalescer
from ingestion.congestion import Bounds, CongestionSampler
from ingestion.handlers import on_receipts, on_standings
from ingestion.openapi import described
from ingestion.operator_api import operator_routes
from ingestion.recovery import MessagesAgain
from ingestion.row_seal import RowSeal
from ingestion.rules import load_rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from common.http.health import Check
    from common.postgres.pool import Pool
    from ingestion.config import Settings

SERVICE = "ingestion"
TRACING_GROUP = "ingestion.tracing"
# Nobody waits for a step to be recorded: larger batches are worth more.
RECEIPTS_CYCLE_SECONDS = 0.25


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its lifespan connects, consumes and relays."""
    telemetry = Telemetry(SERVICE, settings.instance, settings.telemetry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(app, settings, telemetry, stack)
            yield

    return observe(serve_directly(described(lifespan)), telemetry)


async def _start(app: FastAPI, settings: Settings, telemetry: Telemetry, stack: AsyncExitStack) -> None:
    telemetry.start()
    stack.push_async_callback(telemetry.stop)
    rules = load_rules(settings.rules_file)
    signer = Signer.from_file("instruction", settings.signing_key_file, settings.trusted_keys_dir)
    operators = TokenVerifier.from_folder(SERVICE, settings.trusted_keys_dir)
    pool = await connect_pool(settings.postgres_dsn.get_secret_value())
    stack.push_async_callback(pool.close)
    publisher = Publisher(
        settings.kafka, client_id=settings.instance, tracer=telemetry.tracer, measures=telemetry.measures
    )
    stack.push_async_callback(publisher.stop)
    vault = VaultClient(
        settings.vault_url,
        TokenIssuer.from_file(SERVICE, settings.identity_key_file),
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
    stack.push_async_callback(vault.close)

    row_seal = RowSeal.from_identity(settings.identity_key_file)
    await recover(pool, _messages_again(settings, pool, row_seal))
    relay = OutboxRelay(pool, publisher)
    relay.start()
    stack.push_async_callback(relay.stop)
    congestion = CongestionSampler(pool, relay, _bounds(settings))
    congestion.start()
    stack.push_async_callback(congestion.stop)
    admission = Admission(
        pool=pool,
        sealer=vault,
        signer=signer,
        relay=relay,
        rules=rules,
        limits=_limits(settings),
        row_seal=row_seal,
        now=now,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
    singles, bulk = (
        Coalescer(
            admission.admit,
            cycle_seconds=settings.cycle_seconds,
            batches_in_flight_max=settings.batches_in_flight_max,
        )
        for _ in range(2)
    )
    for lane in (singles, bulk):
        lane.start()
        stack.push_async_callback(lane.stop)

    telemetry.watch_pool(pool)
    telemetry.watch_outbox(relay)
    telemetry.watch_unauthorised(pool)
    checks = {"postgres": postgres_check(pool), **await _start_reading(settings, pool, publisher, telemetry, stack)}
    door = Door(pool, singles, bulk, congestion, Bodies(KnownKeys(pool, rules)), rules, operators, telemetry.tracer)
    app.include_router(health_routes(checks))
    include(app, public_routes(door))
    app.include_router(operator_routes(pool, rules, operators, vault))


async def _start_reading(
    settings: Settings, pool: Pool, publisher: Publisher, telemetry: Telemetry, stack: AsyncExitStack
) -> dict[str, Check]:
    """Follow standings and receipts; return how to tell whether that goes well."""
    standings = TableReader(
        settings.kafka, StandingChanged, partial(on_standings, pool=pool), client_id=f"{settings.instance}-standings"
    )
    standings.start()
    stack.push_async_callback(standings.stop)
    keys = TrustedKeys.from_folder("receipt", settings.trusted_keys_dir)
    tracing = Subscription(
        SentReceipt,
        TRACING_GROUP,
        partial(on_receipts, pool=pool, keys=keys),
        publisher,
        settings.instance,
        cycle_seconds=RECEIPTS_CYCLE_SECONDS,
        stop_process=stop_process,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
    telemetry.watch_table(standings)
    telemetry.watch_group("tracing", tracing)
    broker = kafka_broker(settings.kafka, client_id=settings.instance)
    tracing.attach(broker)
    await broker.start()
    stack.push_async_callback(broker.stop)
    return {"standings": table_check(standings), "tracing": consumer_check(tracing)}


def _messages_again(settings: Settings, pool: Pool, row_seal: RowSeal) -> MessagesAgain:
    folder = settings.trusted_keys_dir
    instructions, receipts = (
        TrustedKeys.from_folder("instruction", folder),
        TrustedKeys.from_folder("receipt", folder),
    )
    return MessagesAgain(pool, settings.kafka, instructions, receipts, row_seal, settings.instance)


def _limits(settings: Settings) -> Limits:
    return Limits(settings.content_bytes_max, settings.messages_per_second_max, settings.messages_burst_max)


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        settings.outbox_records_max,
        settings.outbox_seconds_max,
        settings.backlog_seconds_max,
        settings.singles_factor,
    )
