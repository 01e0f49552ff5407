"""Builds routing: the only place where its objects are made, started and stopped."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from common.events.enforcement import StandingChanged
from common.events.screening import SentVerdict, VerdictRevised
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
from common.telemetry.measuring import Point
from common.telemetry.metrics import ATTEMPTS_OPEN, IN_DOUBT, STAGE_AGE
from common.telemetry.process import Telemetry
from common.times import now
from routing import store
from routing.api import Routes
from routing.claims import Claims
from routing.dispatcher import Dispatcher
from routing.handlers import Authority, Planner, on_screened
from routing.journal import Journal, JournalError, JournalFile
from routing.leases import Leases
from routing.loops import new_loops
from routing.openapi import described
from routing.providers.email import EmailProvider
from routing.providers.smtp import SmtpPool, parse_smtp_url
from routing.recovery import settle_left_over
from routing.restoration import DeliveriesAgain
from routing.revisions import Revisions
from routing.settlement import Settlement
from routing.sweeps import Sweeps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from common.postgres.pool import Pool
    from routing.config import RoutingSettings

PLANNING_GROUP = "routing.planning"
EMAIL_PROVIDER = "smtp.default"
# The door's batches come through moderation as batches: they are the pace, and no verdict waits a second time.
PLANNING_CYCLE_SECONDS = 0.01
CLAIM_EVERY_SECONDS = 0.5
SWEEP_EVERY_SECONDS = 1.0
UNKEPT_MAX = 64
"""How many attempts may be open without a journal that survives: after a kill all of them are in doubt."""

log = logging.getLogger(__name__)


def create_app(settings: RoutingSettings) -> FastAPI:
    """Return the ASGI application; its lifespan runs planner and dispatcher."""
    telemetry = Telemetry("routing", settings.instance, settings.telemetry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _run(app, settings, telemetry, stack)
            yield

    return observe(described(lifespan), telemetry)


async def _run(app: FastAPI, settings: RoutingSettings, telemetry: Telemetry, stack: AsyncExitStack) -> None:
    """Start in the order of dependence; the stack stops in reverse."""
    telemetry.start()
    stack.push_async_callback(telemetry.stop)
    tracer, measures = telemetry.tracer, telemetry.measures
    keys = settings.trusted_keys_dir
    signer = Signer.from_file("receipt", settings.signing_key_file, keys)
    authority = Authority(TrustedKeys.from_folder("instruction", keys), TrustedKeys.from_folder("verdict", keys))

    pool = await connect_pool(settings.postgres_dsn.get_secret_value())
    stack.push_async_callback(pool.close)
    publisher = Publisher(settings.kafka, client_id=settings.instance, tracer=tracer, measures=measures)
    stack.push_async_callback(publisher.stop)
    issuer = TokenIssuer.from_file("routing", settings.identity_key_file)
    vault = VaultClient(settings.vault_url, issuer, tracer=tracer, measures=measures)
    stack.push_async_callback(vault.close)
    provider = EmailProvider(EMAIL_PROVIDER, SmtpPool(parse_smtp_url(settings.smtp_url)))
    stack.push_async_callback(provider.close)

    relay = OutboxRelay(pool, publisher)
    relay.start()
    stack.push_async_callback(relay.stop)
    sweeps = Sweeps(pool, signer, relay, now)
    standings = TableReader(
        settings.kafka, StandingChanged, sweeps.on_standing_changed, client_id=f"{settings.instance}.standings"
    )

    settlement = Settlement(
        pool,
        signer,
        relay,
        provider.name,
        settings.retry_seconds_first,
        settings.settling_cycle_seconds,
        now,
        measures=measures,
    )
    attempts_open_max, journal = await _journal(settings, settlement, stack)
    dispatcher = Dispatcher(
        pool=pool,
        vault=vault,
        provider=provider,
        signer=signer,
        relay=relay,
        settlement=settlement,
        journal=journal,
        leases=Leases(settings.lease_seconds, settings.lease_margin_seconds),
        standings_are_fresh=lambda: standings.fresh,
        in_memory_max=settings.deliveries_in_memory_max,
        attempts_open_max=attempts_open_max,
        cycle_seconds=settings.cycle_seconds,
        now=now,
        tracer=tracer,
        measures=measures,
    )
    planner = Planner(pool, authority, signer, relay, dispatcher, settings.lease_seconds, now)
    receipt_keys = TrustedKeys.from_folder("receipt", keys)
    revisions = Revisions(pool, authority.verdicts, signer, relay, now)
    again = DeliveriesAgain(planner, revisions, settings.kafka, vault, receipt_keys, provider.name, settings.instance)
    await recover(pool, again)
    standings.start()
    stack.push_async_callback(standings.stop)
    dispatcher.start()
    stack.push_async_callback(dispatcher.stop)
    claims = Claims(pool, authority, signer, relay, dispatcher, settings.lease_seconds, now)
    loops = new_loops()
    stack.push_async_callback(loops.stop)
    loops.run("claims", claims.step, every_seconds=CLAIM_EVERY_SECONDS)
    loops.run("sweeps", sweeps.step, every_seconds=SWEEP_EVERY_SECONDS)
    loops.run("revisions", revisions.step, every_seconds=SWEEP_EVERY_SECONDS)

    planning: Subscription[SentVerdict | VerdictRevised] = Subscription(
        SentVerdict,
        PLANNING_GROUP,
        partial(on_screened, planner=planner, revisions=revisions),
        publisher,
        settings.instance,
        cycle_seconds=PLANNING_CYCLE_SECONDS,
        stop_process=stop_process,
        tracer=tracer,
        measures=measures,
        also=(VerdictRevised,),
    )
    broker = kafka_broker(settings.kafka, client_id=settings.instance)
    planning.attach(broker)
    await broker.start()
    stack.push_async_callback(broker.stop)
    _watch(telemetry, pool=pool, relay=relay, standings=standings, planning=planning, dispatcher=dispatcher)
    app.include_router(
        health_routes(
            {
                "postgres": postgres_check(pool),
                "standings": table_check(standings),
                "planning": consumer_check(planning),
            }
        )
    )
    app.include_router(Routes(pool, TokenVerifier.from_folder("routing", keys), settlement, relay).router())


def _watch(
    telemetry: Telemetry,
    *,
    pool: Pool,
    relay: OutboxRelay,
    standings: TableReader[StandingChanged],
    planning: Subscription[SentVerdict | VerdictRevised],
    dispatcher: Dispatcher,
) -> None:
    telemetry.watch_pool(pool)
    telemetry.watch_unauthorised(pool)
    telemetry.watch_outbox(relay)
    telemetry.watch_table(standings)
    telemetry.watch_group("planning", planning)
    telemetry.watch_number(STAGE_AGE, dispatcher.oldest_seconds, "handover")
    telemetry.watch_number(IN_DOUBT, partial(store.count_doubts, pool))
    telemetry.measures.observe(ATTEMPTS_OPEN, lambda: [Point((), dispatcher.attempts_open)])


async def _journal(settings: RoutingSettings, settlement: Settlement, stack: AsyncExitStack) -> tuple[int, Journal]:
    """Settle what an earlier process left, and return how many attempts may be open, and the journal for them.

    Without a journal that survives, whatever is open at a kill is in doubt: then no more than UNKEPT_MAX are.
    """
    unkept = min(settings.attempts_open_max, UNKEPT_MAX)
    if settings.journal_file is None:
        log.info("no JOURNAL_FILE is set: what is open when this process is killed will be in doubt")
        return unkept, Journal(unkept)
    try:
        file = stack.enter_context(JournalFile(settings.journal_file))
    except JournalError as error:
        log.warning("the journal %s is not used: %s", settings.journal_file, error)
        return unkept, Journal(unkept)
    try:
        left_over = file.left_over()
    except JournalError as error:
        log.warning("open attempts of an earlier process will be in doubt; its journal begins anew: %s", error)
    else:
        counts = await settle_left_over(settlement, left_over)
        if file.is_new:
            log.info("the journal %s is new; what an earlier process left open will be in doubt", settings.journal_file)
        if left_over:
            log.warning("attempts that a killed process had left open were settled: %s", dict(counts))
    return settings.attempts_open_max, Journal(settings.attempts_open_max, file)
