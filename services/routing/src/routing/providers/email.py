"""E-mail by SMTP submission: the content goes out byte for byte as it was instructed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from routing.domain import AttemptResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.events.intake import VerifiedInstruction
    from common.events.screening import VerifiedVerdict
    from routing.providers.protocol import Disclosed
    from routing.providers.smtp import SmtpPool

NOT_ALLOWED = Outcome(AttemptResult.REFUSED, "screening does not allow this instruction")


class EmailProvider:
    """Hands e-mail to one SMTP submission service; nothing in it can change content, so nothing needs switching off."""

    def __init__(self, name: str, pool: SmtpPool) -> None:
        self._name = name
        self._pool = pool

    @property
    def name(self) -> str:
        """The provider's name in the register of processors."""
        return self._name

    @property
    def fields(self) -> tuple[Literal["address"], ...]:
        """Only the address."""
        return ("address",)

    @property
    def calls_at_once(self) -> int:
        """Two calls a connection: the mail on its way, and the one whose envelope goes with its final dot."""
        return 2 * self._pool.connections_max

    async def hand_over(
        self,
        instruction: VerifiedInstruction,
        verdict: VerifiedVerdict,
        mail: Disclosed,
        *,
        deadline: Callable[[], float],
        beyond: Callable[[], None],
    ) -> Outcome:
        """Send one mail over a pooled connection."""
        if verdict.verdict.action != "allow" or verdict.verdict.instruction_digest != instruction.digest:
            return NOT_ALLOWED
        return await self._pool.send(
            mail_from=mail.envelope_sender,
            rcpt_to=mail.recipient_address,
            content=mail.content,
            deadline=deadline,
            at_final_dot=beyond,
        )

    async def close(self) -> None:
        """End open connections in order."""
        await self._pool.close()
