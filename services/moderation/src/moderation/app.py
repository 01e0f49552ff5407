"""Builds the service: the only place that makes objects, in the order in which they start."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from common.events.intake import MessageAdmitted, SentMessage
from common.events.screening import ListChanged, PolicyStated
from common.http.health import Check, consumer_check, health_routes, postgres_check
from common.http.observed import observe
from common.http.server import stop_process
from common.http.vault import VaultClient
from common.kafka.consumer import Subscription, kafka_broker
from common.kafka.publisher import Publisher
from common.kafka.reading import Places
from common.kafka.table import TableReader
from common.loops import Loops
from common.outbox import OutboxRelay
from common.postgres.pool import connect_pool
from common.postgres.recovery import recover
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.telemetry.measuring import Point
from common.telemetry.metrics import (
    POLICIES_REFUSED,
    POLICY_IN_FORCE,
    REPLAYS,
    RULE_EFFECTS,
    SHADOW_DIFFERENCES,
    VERDICTS,
)
from common.telemetry.process import Telemetry
from common.times import now
from moderation.api import operator_routes
from moderation.examples import require_examples
from moderation.handlers import on_message_admitted
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.openapi import described
from moderation.opinions import Clamd, Opinions, Rspamd
from moderation.policies import Policies, PolicyKeys, until
from moderation.policy.reading import read_policy
from moderation.policy_api import policy_routes
from moderation.recent import RecentMessages
from moderation.recovery import VerdictsAgain
from moderation.rejudging.api import ListRoutes
from moderation.rejudging.lists import LISTS_EVERY_SECONDS, ListsInForce, Rejudging
from moderation.rejudging.store import forget_signals
from moderation.remembering import RememberedScores
from moderation.replay_api import replay_routes
from moderation.replays import Replays
from moderation.review.api import ReviewRoutes
from moderation.review.cases import CLOCK_MINUTES, Clocks
from moderation.review.deciding import Deciding
from moderation.review.opening import severities_of
from moderation.review.store import end_cases
from moderation.screening import Screener
from moderation.store import PolicyShelf, ReplayShelf
from moderation.watching import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from common.postgres.pool import Pool
    from moderation.config import ModerationSettings

SERVICE = "moderation"
GROUP = "moderation.screening"
# The door publishes in batches: they are the pace, and no message waits a second time.
SCREENING_CYCLE_SECONDS = 0.02
CONNECTIONS_MAX = 6
POLICIES_OLD_SECONDS = 10.0
CASES_EVERY_SECONDS = 30.0
REPLAYS_EVERY_SECONDS = 60.0
SIGNALS_EVERY_SECONDS = 1800.0
LISTS_GROUP = "moderation.rejudging"


def create_app(settings: ModerationSettings) -> FastAPI:
    """Return the application; its lifespan starts and stops what the service needs."""
    policy = read_policy(settings.policy_file)
    require_examples(policy)
    telemetry = Telemetry(SERVICE, settings.instance, settings.telemetry)
    models = ModelBank.load(WEIGHTS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(app, settings, Screener(policy, RememberedScores(models), keeps_hashes=True), telemetry, stack)
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
    signer = Signer.from_file("verdict", settings.signing_key_file, settings.trusted_keys_dir)
    policies = _policies(settings, screener, PolicyShelf(pool), telemetry)
    watch = Watch(
        policies,
        screener,
        RecentMessages(),
        publisher=publisher,
        signer=signer,
        effects=measures.counts(RULE_EFFECTS),
        differences=measures.counts(SHADOW_DIFFERENCES),
        mail_server=settings.mail_server,
    )
    opinions = _opinions(settings, stack)
    subscription = _subscription(
        settings,
        screener,
        pool,
        publisher,
        vault,
        signer=signer,
        watch=watch,
        telemetry=telemetry,
        opinions=opinions,
    )
    broker = kafka_broker(settings.kafka, client_id=settings.instance)
    subscription.attach(broker)
    telemetry.watch_pool(pool)
    telemetry.watch_unauthorised(pool)
    telemetry.watch_group("screening", subscription)
    stated = TableReader(
        settings.kafka, PolicyStated, policies.on_policy_stated, client_id=f"{settings.instance}.policies"
    )
    checks = {
        "postgres": postgres_check(pool),
        "screening": consumer_check(subscription),
        "policies": _following(stated),
    }
    app.include_router(health_routes(checks))
    verifier = TokenVerifier.from_folder(SERVICE, settings.trusted_keys_dir)
    app.include_router(operator_routes(pool, screener, verifier))
    app.include_router(policy_routes(policies, PolicyShelf(pool), watch, publisher, verifier))
    replays = _replays(settings, screener, policies, pool, vault, telemetry)
    app.include_router(replay_routes(replays, verifier))
    trusted = settings.trusted_keys_dir
    again = VerdictsAgain(
        pool,
        settings.kafka,
        TrustedKeys.from_folder("instruction", trusted),
        TrustedKeys.from_folder("verdict", trusted),
        settings.instance,
        severities_of(screener.policy),
        clocks_of(settings),
    )
    await recover(pool, again)
    await PolicyShelf(pool).keep_policy(screener.policy, now())
    await _follow(policies, stated, stack)
    relay = OutboxRelay(pool, publisher)
    relay.start()
    stack.push_async_callback(relay.stop)
    telemetry.watch_outbox(relay)
    deciding = Deciding(pool, signer, relay, settings.review_second_share, now)
    review = ReviewRoutes(pool, vault, deciding, verifier, settings.review_lease_seconds, now)
    app.include_router(review.router())
    verdict_keys = TrustedKeys.from_folder("verdict", trusted)
    rejudging = Rejudging(pool, verdict_keys, signer, relay, settings.rejudge_messages_max, now)
    app.include_router(ListRoutes(rejudging, verifier).router())
    _changes_of_lists(settings, rejudging, publisher, telemetry).attach(broker)
    await _keep_up(settings, screener, rejudging, replays, stack)
    stack.push_async_callback(broker.stop)
    await broker.start()


async def _keep_up(
    settings: ModerationSettings, screener: Screener, rejudging: Rejudging, replays: Replays, stack: AsyncExitStack
) -> None:
    """Repeat what keeps the queue, the signals and the lists as they should be; lists are there from the first mail."""
    pool = rejudging.pool
    lists = ListsInForce(pool, screener)
    await lists.step()
    loops = Loops()
    stack.push_async_callback(loops.stop)
    loops.run("the night's replay", replays.look, every_seconds=REPLAYS_EVERY_SECONDS)
    loops.run("the end of cases", lambda: end_cases(pool, now()), every_seconds=CASES_EVERY_SECONDS)
    days = settings.rejudge_days
    loops.run("old signals", lambda: forget_signals(pool, now(), days), every_seconds=SIGNALS_EVERY_SECONDS)
    loops.run("lists", lists.step, every_seconds=LISTS_EVERY_SECONDS)
    loops.run("second searches", rejudging.search_again, every_seconds=LISTS_EVERY_SECONDS)


def _changes_of_lists(
    settings: ModerationSettings, rejudging: Rejudging, publisher: Publisher, telemetry: Telemetry
) -> Subscription[ListChanged]:
    changes = Subscription(
        ListChanged,
        LISTS_GROUP,
        rejudging.on_list_changed,
        publisher,
        instance=settings.instance,
        stop_process=stop_process,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )
    telemetry.watch_group("rejudging", changes)
    return changes


def _opinions(settings: ModerationSettings, stack: AsyncExitStack) -> Opinions:
    opinions = Opinions(
        None if settings.clamd_socket is None else Clamd(settings.clamd_socket),
        None if settings.rspamd_url is None else Rspamd(settings.rspamd_url),
        settings.scanner_seconds_max,
    )
    stack.push_async_callback(opinions.close)
    return opinions


async def _follow(policies: Policies, stated: TableReader[PolicyStated], stack: AsyncExitStack) -> None:
    """Put in force what the topic says, before the first message is judged."""
    policies.start()
    stack.push_async_callback(policies.stop)
    stated.start()
    stack.push_async_callback(stated.stop)
    await until(lambda: stated.fresh)
    await policies.settled()


def _replays(  # noqa: PLR0917  what is built once is handed on once
    settings: ModerationSettings,
    screener: Screener,
    policies: Policies,
    pool: Pool,
    vault: VaultClient,
    telemetry: Telemetry,
) -> Replays:
    trusted = settings.trusted_keys_dir
    return Replays(
        ReplayShelf(pool),
        policies,
        PolicyShelf(pool),
        screener.scorer,
        intake=Places(settings.kafka, MessageAdmitted, f"{settings.instance}.replays"),
        vault=vault,
        instruction_keys=TrustedKeys.from_folder("instruction", trusted),
        verdict_keys=TrustedKeys.from_folder("verdict", trusted),
        counts=telemetry.measures.counts(REPLAYS),
    )


def _following(stated: TableReader[PolicyStated]) -> Check:
    async def check() -> str | None:
        if stated.stale_seconds <= POLICIES_OLD_SECONDS:
            return None
        return f"the policies of the topic were last seen whole {stated.stale_seconds:.0f} s ago"

    return check


def _policies(settings: ModerationSettings, screener: Screener, shelf: PolicyShelf, telemetry: Telemetry) -> Policies:
    trusted = settings.trusted_keys_dir
    keys = PolicyKeys(TrustedKeys.from_folder("policy", trusted), TrustedKeys.from_folder("verdict", trusted))
    policies = Policies(screener, keys, shelf, refused=telemetry.measures.counts(POLICIES_REFUSED))
    telemetry.measures.observe(POLICY_IN_FORCE, lambda: [Point((policies.active.name,), policies.table.revision)])
    return policies


def _subscription(
    settings: ModerationSettings,
    screener: Screener,
    pool: Pool,
    publisher: Publisher,
    vault: VaultClient,
    *,
    signer: Signer,
    watch: Watch,
    telemetry: Telemetry,
    opinions: Opinions,
) -> Subscription[SentMessage]:
    handler = partial(
        on_message_admitted,
        pool=pool,
        vault=vault,
        publisher=publisher,
        signer=signer,
        instruction_keys=TrustedKeys.from_folder("instruction", settings.trusted_keys_dir),
        screener=screener,
        counted=telemetry.measures.counts(VERDICTS),
        watch=watch,
        clocks=clocks_of(settings),
        opinions=opinions,
    )
    return Subscription(
        SentMessage,
        GROUP,
        handler,
        publisher,
        instance=settings.instance,
        cycle_seconds=SCREENING_CYCLE_SECONDS,
        stop_process=stop_process,
        tracer=telemetry.tracer,
        measures=telemetry.measures,
    )


def clocks_of(settings: ModerationSettings) -> Clocks:
    """Return the clocks of review: those of this deployment over those of the house."""
    return Clocks({**CLOCK_MINUTES, **settings.review_clock_minutes})
