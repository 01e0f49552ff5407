from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from common.contracts.vault import ITEMS_MAX, DiscloseAnswer, DiscloseCall, DiscloseItem
from common.http.problems import Problem
from vault import coalescing
from vault.coalescing import SMALL_ITEMS_MAX, _Lane, _Waiting
from vault.domain import Access

ACCESS = Access("routing", "disclose", "delivery", None, 1, None, "smtp.default")


def call_for(*messages, provider="smtp.default"):
    items = [DiscloseItem("a", message, f"rt_{message}", b"c", "d", "contract", 1, 1) for message in messages]
    return DiscloseCall("delivery", provider, ["address"], items)


class Vault:
    """Answers with the message it was asked for; notes what came together. A message `bad` cannot be asked for."""

    def __init__(self, error=None):
        self.calls = []
        self.error = error
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def __call__(self, call, access):
        self.calls.append([item.message_id for item in call.items])
        assert access.items == len(call.items)
        await self.may_go.wait()
        if self.error and any(item.message_id == "bad" for item in call.items):
            raise self.error
        return [DiscloseAnswer(fields={"address": item.message_id}) for item in call.items]


async def ask(vault, *calls):
    """Ask all at once; return what each caller got: its messages, or its error."""
    loop = asyncio.get_running_loop()
    waiting = [_Waiting(call, loop.create_future()) for call in calls]
    lane = _Lane(ACCESS, vault)
    lane.waiting.extend(waiting)
    await lane.drive()
    got = await asyncio.gather(*(one.answer for one in waiting), return_exceptions=True)
    return [one if isinstance(one, Exception) else [answer.fields["address"] for answer in one] for one in got]


async def test_calls_of_one_moment_go_together_and_each_gets_its_own_answers():
    vault = Vault()
    assert await ask(vault, call_for("m1"), call_for("m2", "m3"), call_for("m4")) == [["m1"], ["m2", "m3"], ["m4"]]
    assert vault.calls == [["m1", "m2", "m3", "m4"]]


async def test_what_comes_while_one_is_on_its_way_is_the_next():
    vault, loop = Vault(), asyncio.get_running_loop()
    vault.may_go.clear()
    first, later = _Waiting(call_for("m1"), loop.create_future()), _Waiting(call_for("m2"), loop.create_future())
    lane = _Lane(ACCESS, vault)
    lane.waiting.append(first)
    driver = asyncio.create_task(lane.drive())
    await asyncio.sleep(0)
    lane.waiting.append(later)
    vault.may_go.set()
    await driver
    assert vault.calls == [["m1"], ["m2"]]
    assert (await later.answer)[0].fields == {"address": "m2"}


async def test_a_message_asked_for_twice_waits_for_the_first_ask():
    vault = Vault()
    assert await ask(vault, call_for("m1"), call_for("m1"), call_for("m2")) == [["m1"], ["m1"], ["m2"]]
    assert vault.calls == [["m1"], ["m1", "m2"]]


async def test_together_they_never_exceed_the_items_of_a_call():
    vault, size = Vault(), SMALL_ITEMS_MAX
    calls = [call_for(*(f"{n}.{m}" for m in range(size))) for n in range(2 * ITEMS_MAX // size)]
    assert all(len(got) == size for got in await ask(vault, *calls))
    assert [len(one) for one in vault.calls] == [ITEMS_MAX, ITEMS_MAX]


@pytest.mark.parametrize("error", [Problem(422, "invalid-field", "no"), asyncpg.DataError("no")], ids=["text", "row"])
async def test_one_that_cannot_be_asked_does_not_hold_up_the_others(error):
    vault = Vault(error)
    assert await ask(vault, call_for("m1"), call_for("bad"), call_for("m2")) == [["m1"], error, ["m2"]]


async def test_an_outage_is_told_to_each():
    error = asyncpg.CannotConnectNowError()
    vault = Vault(error)
    assert await ask(vault, call_for("bad"), call_for("m1")) == [error, error]
    assert len(vault.calls) == 1


async def test_who_has_hung_up_holds_up_nobody():
    vault, loop = Vault(), asyncio.get_running_loop()
    gone, there = _Waiting(call_for("m1"), loop.create_future()), _Waiting(call_for("m2"), loop.create_future())
    gone.answer.cancel()
    lane = _Lane(ACCESS, vault)
    lane.waiting.extend([gone, there])
    await lane.drive()
    assert (await there.answer)[0].fields == {"address": "m2"}


class FakePool:
    """Is away, and counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    @asynccontextmanager
    async def acquire(self):
        self.asked += 1
        raise asyncpg.CannotConnectNowError
        yield


async def test_a_discloser_goes_on_after_an_outage_and_keeps_no_lane():
    discloser, pool = coalescing.Discloser(), FakePool()
    asked = [discloser.disclose(call_for("m1", provider=name), ACCESS, pool, None) for name in ("one", "two", "one")]
    got = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in got] == [asyncpg.CannotConnectNowError] * 3
    with pytest.raises(asyncpg.CannotConnectNowError):
        await discloser.disclose(call_for("m1", provider="one"), ACCESS, pool, None)
    assert not discloser._lanes


async def test_two_transactions_are_under_way_and_the_rest_waits():
    vault = Vault()
    discloser = coalescing.Discloser(lambda call, access, pool, keyring: vault(call, access))
    vault.may_go.clear()
    asked = []
    for message in ("m1", "m2", "m3", "m4"):
        asked.append(asyncio.create_task(discloser.disclose(call_for(message), ACCESS, None, None)))
        await asyncio.sleep(0.001)
    assert vault.calls == [["m1"], ["m2"]]
    vault.may_go.set()
    await asyncio.gather(*asked)
    assert vault.calls == [["m1"], ["m2"], ["m3", "m4"]]


async def test_a_large_call_goes_its_own_way():
    discloser, pool = coalescing.Discloser(), FakePool()
    large = [f"m{n}" for n in range(SMALL_ITEMS_MAX + 1)]
    got = await asyncio.gather(
        *(discloser.disclose(call_for(*large), ACCESS, pool, None) for _ in range(3)), return_exceptions=True
    )
    assert len(got) == pool.asked == 3
