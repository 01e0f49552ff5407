"""Opening a connection: TCP, greeting, EHLO, STARTTLS, AUTH (RFC 5321, 3207, 4954). A failure reaches no mail."""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
from ipaddress import IPv6Address, ip_address

from routing.providers.smtp_connection import ConnectionUnusableError, SmtpConnection
from routing.providers.smtp_mail import parse_extensions
from routing.providers.smtp_replies import RawReply, codes
from routing.providers.smtp_settings import Security, SmtpSettings


async def open_connection(
    connection: SmtpConnection,
    settings: SmtpSettings,
    tls: ssl.SSLContext | None,
    limit: asyncio.Timeout,
) -> None:
    """Make the connection ready for mail within `limit`; ConnectionUnusableError holds stage and codes."""
    try:
        async with limit:
            await _connect(connection, settings, tls)
            await _greet(connection, settings, tls)
    except BaseException as error:
        if not connection.quitting:
            connection.abort()
        if isinstance(error, OSError):  # TimeoutError is one
            raise ConnectionUnusableError(_failure(error)) from error
        raise


async def _connect(connection: SmtpConnection, settings: SmtpSettings, tls: ssl.SSLContext | None) -> None:
    await asyncio.get_running_loop().create_connection(
        lambda: connection,
        settings.host,
        settings.port,
        ssl=tls if settings.security is Security.TLS else None,
    )


async def _greet(connection: SmtpConnection, settings: SmtpSettings, tls: ssl.SSLContext | None) -> None:
    await _expect(connection, "greeting", b"", 220)
    await _hello(connection, settings)
    if settings.security is Security.STARTTLS and tls is not None:
        await _start_tls(connection, settings, tls)
        await _hello(connection, settings)
    if settings.username is not None and settings.password is not None:
        await _authenticate(connection, settings.username, settings.password)
    if connection.answered_too_much:
        raise ConnectionUnusableError("unexpected reply while opening")


async def _hello(connection: SmtpConnection, settings: SmtpSettings) -> None:
    name = settings.helo_name or _address_literal(connection.transport)
    _, text = await _expect(connection, "EHLO", f"EHLO {name}\r\n".encode(), 250)
    connection.extensions = parse_extensions(text)


async def _start_tls(connection: SmtpConnection, settings: SmtpSettings, tls: ssl.SSLContext) -> None:
    if not connection.extensions.starttls:
        raise ConnectionUnusableError("STARTTLS not offered")
    await _expect(connection, "STARTTLS", b"STARTTLS\r\n", 220)
    if connection.answered_too_much:
        raise ConnectionUnusableError("text injected before TLS")
    loop = asyncio.get_running_loop()
    transport = await loop.start_tls(connection.transport, connection, tls, server_hostname=settings.host)
    if transport is None:
        raise ConnectionUnusableError("connection lost at STARTTLS")
    connection.replace_transport(transport)


async def _authenticate(connection: SmtpConnection, username: str, password: str) -> None:
    offered = connection.extensions.auth
    if "PLAIN" in offered:
        secret = _base64(f"\0{username}\0{password}")
        await _expect(connection, "AUTH PLAIN", b"AUTH PLAIN %b\r\n" % secret, 235)
    elif "LOGIN" in offered:
        await _expect(connection, "AUTH LOGIN", b"AUTH LOGIN\r\n", 334)
        await _expect(connection, "AUTH LOGIN user", b"%b\r\n" % _base64(username), 334)
        await _expect(connection, "AUTH LOGIN password", b"%b\r\n" % _base64(password), 235)
    else:
        raise ConnectionUnusableError("AUTH PLAIN and LOGIN not offered")


async def _expect(connection: SmtpConnection, stage: str, line: bytes, code: int) -> RawReply:
    try:
        raw = await connection.command(line)
    except ConnectionUnusableError as error:
        raise ConnectionUnusableError(f"{error} at {stage}") from None
    if raw[0] != code:
        connection.quit()
        raise ConnectionUnusableError(f"refused at {stage}: {codes(raw)}")
    return raw


def _address_literal(transport: asyncio.Transport) -> str:
    """The own address as RFC 5321 4.1.3 writes it, for a client without a name of its own."""
    address = ip_address(str(transport.get_extra_info("sockname")[0]).partition("%")[0])
    return f"[IPv6:{address}]" if isinstance(address, IPv6Address) else f"[{address}]"


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def _failure(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "connecting took too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "TLS failure: certificate not trusted"
    if isinstance(error, ssl.SSLError):
        return f"TLS failure: {error.reason or 'handshake'}"
    if isinstance(error, socket.gaierror):
        return "host name not resolved"
    return f"connect failed: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
