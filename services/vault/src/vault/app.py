"""Builds the vault: database, register, keyring, routes, the subscription on receipts; stops them in reverse."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from common.events.routing import ReceiptIssued
from common.http.health import consumer_check, health_routes, postgres_check
from common.http.observed import observe
from common.http.server import stop_process
from common.kafka.consumer import Subscription, kafka_broker
from common.kafka.publisher import Publisher
from common.kafka.replay import replay
from common.postgres.pool import connect_pool
from common.postgres.recovery import Recovery, recover
from common.security.signing import TrustedKeys
from common.security.tokens import TokenVerifier
from common.telemetry.process import Telemetry
from vault import store
from vault.api import Gate, vault_routes
from vault.handlers import on_receipt_issued
from vault.keyring import Keyring
from vault.keys.root import RootKey
from vault.openapi import described
from vault.processors import read_processors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from common.postgres.pool import Pool
    from vault.config import VaultSettings

GROUP = "vault.spending"
# Nobody waits for a receipt to be recorded: larger batches are worth more.
RECEIPTS_CYCLE_SECONDS = 0.05


def create_app(settings: VaultSettings) -> FastAPI:
    """Return the application; its lifespan opens and closes everything."""
    root = RootKey.from_file(settings.root_key_file)
    processors = read_processors(settings.processors_file)
    verifier = TokenVerifier.from_folder("vault", settings.trusted_keys_dir)
    trusted = TrustedKeys.from_folder("receipt", settings.trusted_keys_dir)
    telemetry = Telemetry("vault", settings.instance, settings.telemetry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            telemetry.start()
            stack.push_async_callback(telemetry.stop)
            pool = await connect_pool(settings.postgres_dsn.get_secret_value())
            stack.push_async_callback(pool.close)
            await store.replace_processors(pool, processors)
            keyring = Keyring(root, settings.accounts_cached_max)
            await keyring.check_root(pool)
            publisher = Publisher(settings.kafka, client_id=settings.instance, measures=telemetry.measures)
            stack.push_async_callback(publisher.stop)
            spending = _spending(settings, pool, publisher, trusted, telemetry)
            telemetry.watch_pool(pool)
            telemetry.watch_unauthorised(pool)
            telemetry.watch_group("spending", spending)
            app.include_router(vault_routes(Gate(verifier, pool), pool, keyring))
            app.include_router(health_routes({"postgres": postgres_check(pool), GROUP: consumer_check(spending)}))
            await recover(pool, lambda recovery: _read_again(settings, pool, trusted, recovery))
            broker = kafka_broker(settings.kafka, client_id=settings.instance)
            spending.attach(broker)
            stack.push_async_callback(broker.stop)
            await broker.start()
            yield

    return observe(described(lifespan), telemetry)


async def _read_again(settings: VaultSettings, pool: Pool, trusted: TrustedKeys, recovery: Recovery) -> None:
    """Spend again what was handed over since the backup, before anything is disclosed."""
    handle = partial(on_receipt_issued, pool=pool, trusted=trusted)
    await replay(settings.kafka, ReceiptIssued, recovery.since, handle, client_id=f"{settings.instance}-recovery")


def _spending(
    settings: VaultSettings, pool: Pool, publisher: Publisher, trusted: TrustedKeys, telemetry: Telemetry
) -> Subscription[ReceiptIssued]:
    return Subscription(
        event=ReceiptIssued,
        group=GROUP,
        handler=partial(on_receipt_issued, pool=pool, trusted=trusted),
        publisher=publisher,
        instance=settings.instance,
        cycle_seconds=RECEIPTS_CYCLE_SECONDS,
        stop_process=stop_process,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
