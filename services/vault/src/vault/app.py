"""Builds the vault: database, register, keyring, routes, the subscription on receipts; stops them in reverse."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from common.events.routing import SentReceipt
from common.http.direct import include, serve_directly
from common.http.health import consumer_check, health_routes, postgres_check
from common.http.observed import observe
from common.http.server import stop_process
from common.kafka.consumer import Subscription, kafka_broker
from common.kafka.publisher import Publisher
from common.kafka.replay import replay
from common.loops import Loops
from common.outbox import OutboxRelay
from common.postgres.pool import connect_pool
from common.postgres.recovery import Recovery, recover
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenVerifier
from common.telemetry.process import Telemetry
from vault import store
from vault.accesslog import Sequencer
from vault.api import vault_routes
from vault.domain import ITEMS_PER_SECOND
from vault.duties.api import duties_routes
from vault.duties.records import Deployment
from vault.epochs import keep_epochs
from vault.errors import KeyFileError
from vault.gate import Gate
from vault.handlers import on_receipt_issued
from vault.keyring import Keyring
from vault.keys.epochs import KeyFolder
from vault.openapi import described
from vault.operator_api import operator_routes
from vault.processors import read_processors
from vault.rates import Rates
from vault.recovery import withdraw_again
from vault.restoring import RestoreGate
from vault.roots import EitherRoot, RootSettings, find_root, refuse_file_in_production

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from pydantic import SecretStr

    from common.http.health import Check
    from common.postgres.pool import Pool
    from vault.config import VaultSettings

GROUP = "vault.spending"
# Nobody waits for a receipt to be recorded: larger batches are worth more.
RECEIPTS_CYCLE_SECONDS = 0.25
LOOK_EVERY_SECONDS = 1.0
SEQUENCE_EVERY_SECONDS = 1.0
REFRESH_EVERY_SECONDS = 5.0
EPOCHS_EVERY_SECONDS = 60.0

log = logging.getLogger(__name__)


def create_app(settings: VaultSettings) -> FastAPI:
    """Return the application; its lifespan opens and closes everything."""
    keys = _key_folder(settings)
    processors = read_processors(settings.processors_file)
    verifier = TokenVerifier.from_folder("vault", settings.trusted_keys_dir)
    trusted = TrustedKeys.from_folder("receipt", settings.trusted_keys_dir)
    telemetry = Telemetry("vault", settings.instance, settings.telemetry)
    signer = Signer.from_file("vault", settings.signing_key_file, settings.trusted_keys_dir)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            telemetry.start()
            stack.push_async_callback(telemetry.stop)
            pool = await connect_pool(settings.postgres_dsn.get_secret_value())
            stack.push_async_callback(pool.close)
            await store.replace_processors(pool, processors)
            if settings.other_root is not None:
                keys.rewrap()
            keyring = Keyring(keys, settings.accounts_cached_max)
            await _start(keyring, pool)
            publisher = Publisher(settings.kafka, client_id=settings.instance, measures=telemetry.measures)
            stack.push_async_callback(publisher.stop)
            relay = OutboxRelay(pool, publisher)
            relay.start()
            stack.push_async_callback(relay.stop)
            restore = RestoreGate(settings.kafka, pool, client_id=settings.instance)
            restore.start()
            stack.push_async_callback(restore.stop)
            loops = Loops()
            stack.push_async_callback(loops.stop)
            loops.run("restore gate", restore.look, every_seconds=LOOK_EVERY_SECONDS)
            loops.run("keyring", partial(keyring.refresh, pool), every_seconds=REFRESH_EVERY_SECONDS)
            clock = partial(keep_epochs, pool, keyring, settings.epoch_hours)
            loops.run("epochs", clock, every_seconds=EPOCHS_EVERY_SECONDS)
            loops.run("access log", Sequencer(pool, signer, publisher).step, every_seconds=SEQUENCE_EVERY_SECONDS)
            spending = _spending(settings, pool, publisher, trusted, telemetry)
            telemetry.watch_pool(pool)
            telemetry.watch_unauthorised(pool)
            telemetry.watch_group("spending", spending)
            rates = Rates({**ITEMS_PER_SECOND, **{str(one): rate for one, rate in settings.items_per_second.items()}})
            gate = Gate(verifier, pool, rates, restore.closed)
            include(app, vault_routes(gate, pool, keyring, publisher, relay))
            app.include_router(operator_routes(gate, pool, keyring, signer))
            app.include_router(
                duties_routes(gate, pool, keyring, publisher, signer=signer, deployment=_deployment(settings, keys))
            )
            app.include_router(health_routes(_checks(pool, spending, restore)))
            await recover(pool, lambda recovery: _read_again(settings, pool, trusted, recovery))
            broker = kafka_broker(settings.kafka, client_id=settings.instance)
            spending.attach(broker)
            stack.push_async_callback(broker.stop)
            await broker.start()
            yield

    return observe(serve_directly(described(lifespan)), telemetry)


async def _read_again(settings: VaultSettings, pool: Pool, trusted: TrustedKeys, recovery: Recovery) -> None:
    """Spend and withdraw again what was handed over and withdrawn since the backup, before anything is disclosed."""
    client_id = f"{settings.instance}-recovery"
    handle = partial(on_receipt_issued, pool=pool, trusted=trusted)
    await replay(settings.kafka, SentReceipt, recovery.since, handle, client_id=client_id)
    await withdraw_again(settings.kafka, pool, recovery.since, client_id=client_id)


async def _start(keyring: Keyring, pool: Pool) -> None:
    try:
        await keyring.start(pool)
    except KeyFileError as error:
        log.critical("the vault does not start: %s", error)
        raise


def _checks(pool: Pool, spending: Subscription[SentReceipt], restore: RestoreGate) -> dict[str, Check]:
    async def restored() -> str | None:
        return restore.closed()

    return {"postgres": postgres_check(pool), GROUP: consumer_check(spending), "erasures": restored}


def _deployment(settings: VaultSettings, keys: KeyFolder) -> Deployment:
    return Deployment(
        settings.operator_name,
        settings.operator_contact,
        settings.protection_officer,
        keys.describe_root(),
        settings.epoch_hours,
        settings.production,
    )


def _key_folder(settings: VaultSettings) -> KeyFolder:
    accepted = settings.file_root_in_production == "accepted"
    refuse_file_in_production(settings.root, production=settings.production, accepted=accepted)
    told = RootSettings(
        key_file=settings.root_key_file,
        passphrase=_revealed(settings.root_passphrase),
        aws_endpoint=settings.aws_endpoint,
        transit_url=settings.transit_url,
        transit_token=_revealed(settings.transit_token),
    )
    root = find_root(settings.root, told)
    if settings.other_root is None:
        return KeyFolder(settings.keys_dir, root)
    return KeyFolder(settings.keys_dir, EitherRoot(root, find_root(settings.other_root, told)))


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _spending(
    settings: VaultSettings, pool: Pool, publisher: Publisher, trusted: TrustedKeys, telemetry: Telemetry
) -> Subscription[SentReceipt]:
    return Subscription(
        event=SentReceipt,
        group=GROUP,
        handler=partial(on_receipt_issued, pool=pool, trusted=trusted),
        publisher=publisher,
        instance=settings.instance,
        cycle_seconds=RECEIPTS_CYCLE_SECONDS,
        stop_process=stop_process,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
