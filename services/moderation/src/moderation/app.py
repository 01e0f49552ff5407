"""Builds the service: the only place that makes objects, in the order in which they start."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from common.events.intake import MessageAdmitted
from common.http.health import consumer_check, health_routes, postgres_check
from common.http.observed import observe
from common.http.server import stop_process
from common.http.vault import VaultClient
from common.kafka.consumer import Subscription, kafka_broker
from common.kafka.publisher import Publisher
from common.postgres.pool import connect_pool
from common.postgres.recovery import recover
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.telemetry.metrics import VERDICTS
from common.telemetry.process import Telemetry
from moderation.api import operator_routes
from moderation.examples import require_examples
from moderation.handlers import on_message_admitted
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.openapi import described
from moderation.policy.reading import read_policy
from moderation.recovery import VerdictsAgain
from moderation.screening import Screener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from common.postgres.pool import Pool
    from moderation.config import ModerationSettings

SERVICE = "moderation"
GROUP = "moderation.screening"
CONNECTIONS_MAX = 4


def create_app(settings: ModerationSettings) -> FastAPI:
    """Return the application; its lifespan starts and stops what the service needs."""
    policy = read_policy(settings.policy_file)
    require_examples(policy)
    telemetry = Telemetry(SERVICE, settings.instance, settings.telemetry)
    models = ModelBank.load(WEIGHTS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(app, settings, Screener(policy, models), telemetry, stack)
            yield

    return observe(described(lifespan), telemetry)


async def _start(
    app: FastAPI, settings: ModerationSettings, screener: Screener, telemetry: Telemetry, stack: AsyncExitStack
) -> None:
    telemetry.start()
    stack.push_async_callback(telemetry.stop)
    tracer, measures = telemetry.tracer, telemetry.measures
    pool = await connect_pool(settings.postgres_dsn.get_secret_value(), connections_max=CONNECTIONS_MAX)
    stack.push_async_callback(pool.close)
    publisher = Publisher(settings.kafka, client_id=settings.instance, tracer=tracer, measures=measures)
    await publisher.start()
    stack.push_async_callback(publisher.stop)
    issuer = TokenIssuer.from_file(SERVICE, settings.identity_key_file)
    vault = VaultClient(settings.vault_url, issuer, tracer=tracer, measures=measures)
    stack.push_async_callback(vault.close)
    subscription = _subscription(settings, screener, pool, publisher, vault, telemetry=telemetry)
    broker = kafka_broker(settings.kafka, client_id=settings.instance)
    subscription.attach(broker)
    telemetry.watch_pool(pool)
    telemetry.watch_unauthorised(pool)
    telemetry.watch_group("screening", subscription)
    checks = {"postgres": postgres_check(pool), "screening": consumer_check(subscription)}
    app.include_router(health_routes(checks))
    verifier = TokenVerifier.from_folder(SERVICE, settings.trusted_keys_dir)
    app.include_router(operator_routes(pool, screener.policy, verifier))
    trusted = settings.trusted_keys_dir
    again = VerdictsAgain(
        pool,
        settings.kafka,
        TrustedKeys.from_folder("instruction", trusted),
        TrustedKeys.from_folder("verdict", trusted),
        settings.instance,
    )
    await recover(pool, again)
    stack.push_async_callback(broker.stop)
    await broker.start()


def _subscription(
    settings: ModerationSettings,
    screener: Screener,
    pool: Pool,
    publisher: Publisher,
    vault: VaultClient,
    *,
    telemetry: Telemetry,
) -> Subscription[MessageAdmitted]:
    handler = partial(
        on_message_admitted,
        pool=pool,
        vault=vault,
        publisher=publisher,
        signer=Signer.from_file("verdict", settings.signing_key_file, settings.trusted_keys_dir),
        instruction_keys=TrustedKeys.from_folder("instruction", settings.trusted_keys_dir),
        screener=screener,
        counted=telemetry.measures.counts(VERDICTS),
    )
    return Subscription(
        MessageAdmitted,
        GROUP,
        handler,
        publisher,
        instance=settings.instance,
        stop_process=stop_process,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
