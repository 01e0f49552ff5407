"""Builds the service: pool, publisher, relay, routes; stops them in reverse."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, cast

from common.http.health import health_routes, postgres_check
from common.http.observed import observe
from common.http.vault import VaultClient
from common.kafka.publisher import Publisher, PublishError
from common.outbox import OutboxRelay
from common.postgres.pool import connect_pool
from common.security.tokens import TokenIssuer, TokenVerifier
from common.telemetry.process import Telemetry
from common.times import now
from enforcement.api import install_routes
from enforcement.bodies import BoundedBodies
from enforcement.decisions import Bench
from enforcement.openapi import described
from enforcement.publishing import LatestStandings
from enforcement.reconciling import Reconciliation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from common.http.health import Check
    from enforcement.config import Settings

OUTBOX_AGE_SECONDS_MAX = 10.0

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its lifespan connects to PostgreSQL and Kafka."""
    telemetry = Telemetry("enforcement", settings.instance, settings.telemetry)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        telemetry.start()
        pool = await connect_pool(settings.postgres_dsn.get_secret_value())
        publisher = Publisher(settings.kafka, client_id=settings.instance, measures=telemetry.measures)
        standings = LatestStandings(pool, publisher)
        relay = OutboxRelay(pool, cast("Publisher", standings))
        reconciliation = Reconciliation(pool, settings.kafka, standings, settings.instance)
        vault = VaultClient(
            settings.vault_url,
            TokenIssuer.from_file("enforcement", settings.identity_key_file),
            tracer=telemetry.tracer,
            measures=telemetry.measures,
        )
        telemetry.watch_pool(pool)
        telemetry.watch_outbox(relay)
        app.state.bench = Bench(pool, relay, now, lambda: reconciliation.done)
        app.state.sealer = vault
        checks = {
            "postgres": postgres_check(pool),
            "outbox": outbox_check(relay),
            "standings": reconciliation.check,
        }
        app.include_router(health_routes(checks))
        relay.start()
        await _connect(publisher)
        reconciliation.start()
        try:
            yield
        finally:
            await reconciliation.stop()
            await relay.stop()
            await publisher.stop()
            await vault.close()
            await pool.close()
            await telemetry.stop()

    app = described(lifespan)
    app.state.verifier = TokenVerifier.from_folder("enforcement", settings.trusted_keys_dir)
    app.add_middleware(BoundedBodies)
    observe(app, telemetry)
    install_routes(app)
    return app


def outbox_check(relay: OutboxRelay) -> Check:
    """Check that no decision waits long to be told."""

    async def check() -> str | None:
        seconds = await relay.oldest_seconds()
        if seconds <= OUTBOX_AGE_SECONDS_MAX:
            return None
        return f"decisions are not published yet, the oldest for {seconds:.0f} s; is Kafka reachable?"

    return check


async def _connect(publisher: Publisher) -> None:
    """Connect now, so that the first decision does not wait for it; without Kafka complaints are taken all the same."""
    try:
        await publisher.start()
    except PublishError as error:
        log.warning("not connected to Kafka, trying again with the first decision: %s", error)
