"""`waystation demo-vault`: who received what about a person, its erasure, and a kept copy that no longer opens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import typer

from waystation.demo.checks import Check
from waystation.demo.stage import empty, require_a_demos_home
from waystation.demo.story import Story
from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import JsonFlag, Output
from waystation.rehearsal import Rehearsal, items
from waystation.stack import Stack, default_home, postgres
from waystation.stack.credentials import SUPERUSER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from waystation.rehearsal import Account

ADA, BEN = "ada.winter@kunden.example", "ben.acker@kunden.example"
PURPOSE = "data-protection"
REST_SECONDS = 60.0

DemoHome = Annotated[
    Path | None,
    typer.Option(
        "--home", help="A folder for the demo's own stacks; wiped first.", show_default=".waystation/demo-vault"
    ),
]


def demo_vault(home: DemoHome = None, as_json: JsonFlag = False) -> None:
    """Erase a person and try a kept copy with every key there is; exit status 1 when a check fails."""
    story, place = Story(silent=as_json), (home or default_home() / "demo-vault")
    owner = Stack.open(place / "stack", report=story)
    thief = Stack.open(place / "thief", report=story)
    with _both_down_afterwards(place, owner, thief):
        checks = Play(story, owner, thief, Rehearsal(owner, place / "laboratory")).perform()
    Output(as_json).show([{"check": one.name, "holds": one.holds, "found": one.found} for one in checks], lambda: "")
    if not all(one.holds for one in checks):
        raise typer.Exit(1)


@contextlib.contextmanager
def _both_down_afterwards(place: Path, *stacks: Stack) -> Iterator[None]:
    laboratory = place / "laboratory"
    require_a_demos_home(laboratory)
    for stack in stacks:
        stack.down(wipe=True)
    empty(laboratory)
    try:
        yield
    finally:
        for stack in stacks:
            stack.down(wipe=True)


class Play:
    """The demo while it runs: who owns the vault, who stole a copy of it, who listens."""

    def __init__(self, story: Story, owner: Stack, thief: Stack, road: Rehearsal) -> None:
        self._story = story
        self._owner = owner
        self._thief = thief
        self._road = road
        self._checks: list[Check] = []

    def perform(self) -> list[Check]:
        """Play all acts; return what was shown, and whether it held."""
        try:
            account = self._mails_go_out()
            self._what_about_me(account)
            self._a_copy_is_kept_and_opens(account)
            self._erased(account)
            self._the_copy_again()
        finally:
            self._road.stop_laboratory()
        self._story.act("What was promised")
        for one in self._checks:
            self._story.judge(one.name, one.found, good=one.holds)
        return self._checks

    def _mails_go_out(self) -> Account:
        self._story.act("Mails for Ada and Ben go down the road")
        self._owner.up_infra()
        self._road.start_laboratory()
        self._owner.up()
        account = self._road.create_account("Blumen Winter")
        admitted = asyncio.run(self._road.send(account, items([ADA, ADA, BEN])))
        self._road.wait_until_at_rest(len(admitted), REST_SECONDS)
        self._story.say("All three are handed over. Outside the vault nothing of the system knows the two addresses.")
        return account

    def _what_about_me(self, account: Account) -> None:
        self._story.act("Ada asks: who received what about me?")
        self._story.ask(f"waystation vault export ada.html --account {account.account_id} --address {ADA}")
        ada = _export(self._owner, account.account_id, ADA)
        shown = ("provider", "in", "fields", "disclosures", "acknowledged", "first", "last")
        rows = [
            (one["provider"], one["country"], ", ".join(one["fields"]), *(one[name] for name in shown[3:]))
            for one in ada["recipients"]
        ]
        self._story.show(shown, rows)
        told = [(one["fields"], one["disclosures"]) for one in ada["recipients"]]
        self._hold(
            "ledger", told == [(["address"], 2)], "the ledger has both hand-overs to the provider, and the fields"
        )

    def _a_copy_is_kept_and_opens(self, account: Account) -> None:
        self._story.act("Somebody keeps a copy of the database, and has every key there is")
        base_backup(self._owner, self._thief)
        self._take_keys()
        self._story.say(
            "A base backup, the root key, the keys of epochs, all passwords: a vault of the thief's own opens it."
        )
        with self._thieves_vault():
            ada = _export(self._thief, account.account_id, ADA)
        self._story.show(("the thief reads", ""), sorted(ada["fields"].items()))
        self._hold(
            "control", ada["fields"].get("address") == ADA, "before the erasure the copy opens: it is a good copy"
        )

    def _erased(self, account: Account) -> None:
        self._story.act("Ada is erased, and the epoch ends")
        self._story.ask(f"waystation vault erase --account {account.account_id} --address {ADA}")
        person = {"account_id": account.account_id, "address": ADA}
        call = {"purpose": PURPOSE, "reason": "request-of-person", "items": [person]}
        with ServiceClient(self._owner) as operator:
            (erased,) = operator.post("vault", "/v1/erase:batch", call)["items"]
            self._story.ask("waystation vault end-epoch")
            operator.post("vault", "/v1/epochs")
            (token,) = erased["tokens"]
            receipt = operator.get("vault", f"/v1/erasures/{token}")["statement"]
        self._story.show(("the signed receipt says", ""), sorted(receipt.items()))
        ada = _export(self._owner, account.account_id, token, by="token")
        ben = _export(self._owner, account.account_id, BEN)
        self._hold(
            "erased", (ada["state"], ada["fields"]) == ("erased", {}), "of Ada no field is left, in the vault itself"
        )
        self._hold(
            "receipt",
            receipt["older_copies_unreadable_at"] is not None,
            "the receipt says since when older copies are dead",
        )
        self._hold("others", ben["fields"].get("address") == BEN, "Ben's data open as before, under the new epoch")
        told = [(one["fields"], one["disclosures"]) for one in ada["recipients"]]
        self._hold(
            "still", told == [(["address"], 2)], "who received something about Ada can still be answered, by token"
        )

    def _the_copy_again(self) -> None:
        self._story.act("The thief opens the kept copy again, with every key that still exists")
        self._take_keys()
        opened = True
        try:
            with self._thieves_vault():
                pass
        except CommandError:
            opened = False
        said = [line["message"] for line in _lines(self._thief.layout.log("vault-1")) if line["level"] == "critical"]
        for text in said:
            self._story.say(f"Its vault ends at once: {text}")
        holds = not opened and any("does not exist" in text for text in said)
        self._hold("copy", holds, "the kept copy opens under no key that exists: its epoch's key is destroyed")
        self._story.say(
            "What is not promised: a thief who also kept a snapshot of the keys of epochs, and the root,"
            " reads what it opened then. That folder belongs on storage without snapshots."
        )

    def _take_keys(self) -> None:
        """The thief takes the keys and secrets that there are now; of those that are gone he keeps nothing."""
        owner, thief = self._owner.layout, self._thief.layout
        for source, target in ((owner.secrets, thief.secrets), (owner.trusted, thief.trusted)):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)

    @contextlib.contextmanager
    def _thieves_vault(self) -> Iterator[None]:
        """A vault over the kept copy, with a Kafka of the thief's own that knows of no erasure."""
        self._thief.up_infra()
        self._thief.start_service("vault")
        try:
            yield
        finally:
            self._thief.stop_service("vault")

    def _hold(self, name: str, holds: bool, text: str) -> None:
        self._checks.append(Check(name, text, () if holds else (text,)))


def base_backup(owner: Stack, thief: Stack) -> None:
    """Copy PostgreSQL's data folder while it works, as its manual says (26.3.3), into the folder of another stack."""
    source, target = postgres.data_folder(owner.layout), postgres.data_folder(thief.layout)
    target.parent.mkdir(parents=True, mode=0o700)
    asyncio.run(_copy_between(owner.dsn("postgres", SUPERUSER), source, target))
    owned_by = source.stat()
    for path in (target.parent, target, *target.rglob("*")):
        os.chown(path, owned_by.st_uid, owned_by.st_gid)
    target.chmod(0o700)


async def _copy_between(dsn: str, source: Path, target: Path) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT pg_backup_start('demo', true)")
        await asyncio.to_thread(
            shutil.copytree,
            source,
            target,
            ignore=lambda folder, names: _not_copied(Path(folder), names, source),
            copy_function=_copy_if_there,
        )
        stopped = await connection.fetchrow("SELECT labelfile FROM pg_backup_stop(false)")
    finally:
        await connection.close()
    (target / "backup_label").write_text(stopped["labelfile"], encoding="utf-8")
    await asyncio.to_thread(shutil.copytree, source / "pg_wal", target / "pg_wal", copy_function=_copy_if_there)


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def _not_copied(folder: Path, names: Sequence[str], source: Path) -> set[str]:
    return {"pg_wal", "postmaster.pid", "postmaster.opts"} & set(names) if folder == source else set()


def _copy_if_there(source: str, target: str) -> None:
    """Files of a working PostgreSQL come and go; those that matter are there, or their changes stand in the log."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


def _export(stack: Stack, account_id: str, value: str, *, by: str = "address") -> Mapping[str, Any]:
    with ServiceClient(stack) as operator:
        body = {"purpose": PURPOSE, "person": {"account_id": account_id, by: value}}
        persons: Sequence[Mapping[str, Any]] = operator.post("vault", "/v1/export", body)["persons"]
    return persons[0]
