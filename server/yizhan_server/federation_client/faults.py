"""What an administrator is told when another server cannot be asked: the cause, and what to do.

Spec: server-server API, "Resolving server names", "TLS".
"""

from __future__ import annotations

import ssl

import aiohttp

from yizhan_config.outbound import OutboundRefused
from yizhan_server.federation_client.errors import (
    RemoteFailure,
    RemoteMisbehaved,
    RemoteRefused,
)

_NOT_YET_VALID, _EXPIRED = 9, 10
_NAME_MISMATCH = (62, 64)
"""Results of OpenSSL's verification (X509_V_ERR_...); all others mean an unknown authority."""


class Fault(Exception):
    """What is wrong, in Chinese and English."""

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(en)
        self.zh = zh
        self.en = en


def explain(failure: RemoteFailure) -> Fault:
    """Return the fault that a failure shows."""
    words = _words(failure)
    cause = failure.__cause__
    detail = f"{failure}: {cause}" if str(cause or "") else str(failure)
    return Fault(f"{words.zh}（{detail}）", f"{words.en} ({detail})")


def _words(failure: RemoteFailure) -> Fault:
    cause = failure.__cause__
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        return _of_certificate(cause.certificate_error)
    if isinstance(cause, OutboundRefused):
        return Fault(
            "该名称指向内部地址；如果确实无误，请把此服务器写入 federation.allow，或把地址写入 "
            "federation.private_addresses。",
            "The name leads to a private address; if that is right, name the server in "
            "federation.allow, or the address in federation.private_addresses.",
        )
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return Fault(
            "域名解析（DNS）失败：查不到该名称的地址。请检查服务器名的拼写，以及双方的 DNS "
            "记录或 /etc/hosts。",
            "DNS: no address is known for this name. Check its spelling, and the DNS records or "
            "/etc/hosts on both sides.",
        )
    if isinstance(cause, aiohttp.ClientSSLError | ssl.SSLError):
        return Fault(
            "该端口有应答，但不是 TLS。请对方检查端口和反向代理的设置。",
            "Something answers at this port, but not with TLS. The other side has to check its "
            "port and its reverse proxy.",
        )
    if isinstance(cause, TimeoutError):
        return Fault(
            "没有应答。请检查双方的防火墙以及对方的服务器是否开机。",
            "There is no answer. Check the firewalls on both sides, and whether the other server "
            "is switched on.",
        )
    if isinstance(cause, OSError):
        return _of_connection(cause)
    return _of_answer(failure)


def _of_certificate(error: Exception) -> Fault:
    code = getattr(error, "verify_code", None)
    if code == _EXPIRED:
        return Fault(
            "对方的证书已过期，请对方更新证书（如果本服务器的时钟不准，请先校准）。",
            "The other server's certificate has expired; the other side has to renew it (unless "
            "the clock of this server is wrong).",
        )
    if code == _NOT_YET_VALID:
        return Fault(
            "对方的证书尚未生效：多半是某一方的时钟不准，请校准。",
            "The other server's certificate is not yet valid: most probably one of the clocks is "
            "wrong.",
        )
    if code in _NAME_MISMATCH:
        return Fault(
            "对方出示的证书属于别的名称，请对方换成上述名称的证书。",
            "The other server shows a certificate for another name; the other side has to use one "
            "for the name above.",
        )
    return Fault(
        "对方的证书不是由本服务器信任的机构签发的（CA 不对）。请向对方索取其 CA 证书，写入 "
        "federation.trusted_ca_files。",
        "The other server's certificate is by an authority (CA) that this server does not trust. "
        "Get the authority's certificate from the other side and list it in "
        "federation.trusted_ca_files.",
    )


def _of_connection(error: OSError) -> Fault:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, ConnectionRefusedError):
        return Fault(
            "该端口没有程序在监听（连接被拒绝）。请对方启动服务器，并检查 listen 设置和反向代理。",
            "Nothing listens at this port (connection refused). The other side has to start its "
            "server, and to check its `listen` settings and its reverse proxy.",
        )
    return Fault(
        "无法连接。请检查双方的网络、路由和防火墙。",
        "There is no connection. Check network, routes and firewalls on both sides.",
    )


def _of_answer(failure: RemoteFailure) -> Fault:
    if isinstance(failure, RemoteRefused | RemoteMisbehaved):
        return Fault(
            "该地址有应答，但不像 Matrix 服务器。请对方检查反向代理是否原样转发 /_matrix/。",
            "Something answers there, but not like a Matrix server. The other side has to check "
            "that its reverse proxy passes on /_matrix/ unchanged.",
        )
    if isinstance(failure.__cause__, aiohttp.ClientError):
        return Fault(
            "连接中断，没有完整的应答。请对方查看服务器和反向代理的日志。",
            "The connection ended without an answer. The other side has to look into the logs of "
            "its server and its reverse proxy.",
        )
    return Fault(
        "对方暂时不能应答。请对方检查服务器是否在运行。",
        "The other server cannot answer now. The other side has to check that it is running.",
    )
