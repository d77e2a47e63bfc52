"""A new installation: the commented `yizhan.toml`, the keys and the secrets.

Nothing is ever overwritten: a second signing key would end the server's identity.
"""

import base64
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from yizhan_config.errors import ConfigurationError
from yizhan_config.language import say
from yizhan_config.secret_files import check_private, make_password, write_secret
from yizhan_config.settings import FILE_NAME, Settings, load

Value = str | int | float | bool | list[str]


@dataclass(frozen=True)
class Entry:
    """A line of the new file: a key with its value, or with `given` False a commented example."""

    key: str
    value: Value
    zh: str
    en: str
    given: bool = True


def create(data: Path, server_name: str, chosen: Mapping[str, Value]) -> Settings:
    """Make the data folder (0700) with configuration, keys and secrets, and return its settings.

    `chosen` holds dotted keys; what it does not name gets its default. ConfigurationError if
    something is in the way or a value is wrong; then nothing has been written.
    """
    check_new(data)
    values: dict[str, Value] = {"server_name": server_name, **chosen}
    settings = load(data=data, overrides=values)  # refuses what is wrong before anything exists
    check_certificate(settings.tls.certificate, settings.tls.key)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    write_secret(settings.signing_key_file, make_signing_key())
    write_secret(settings.push_gateway.vapid_key_file, make_vapid_key())
    write_secret(settings.registration.shared_secret_file, secrets.token_urlsafe(32))
    write_secret(settings.bots.password_file, make_password())
    # Last, since its presence is what makes a folder an installation.
    write_secret(data / FILE_NAME, render(values))
    return settings


def check_new(data: Path) -> None:
    """Refuse a folder that already holds an installation, or a part of one."""
    for name in (FILE_NAME, "secrets", "homeserver.db"):
        if (data / name).exists():
            raise ConfigurationError(
                f"{data / name} 已经存在，不会覆盖；请用 --data 给出另一个目录。",
                f"{data / name} exists and is not overwritten; name another folder by --data.",
            )


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse a certificate that cannot be served: unreadable, exposed, or of another key."""
    if certificate is None or key is None:
        return
    check_private(key, group_may_read=True)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"无法使用证书 {certificate} 和私钥 {key}（{error}）；请检查两个文件是否配对。",
            f"the certificate {certificate} and the key {key} cannot be used ({error}); "
            "check that both files belong together.",
            key="tls.certificate",
        ) from error


def make_signing_key() -> str:
    """Return a new Ed25519 key as `ed25519 VERSION SEED`, the form that homeservers share."""
    seed = base64.b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return f"ed25519 a_{secrets.token_hex(2)} {seed}"


def make_vapid_key() -> str:
    """Return a new P-256 key as PEM (PKCS 8)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def render(values: Mapping[str, Value]) -> str:
    """Return the text of a configuration that holds `values`, with comments and examples."""
    entries = {entry.key: entry for entry in _entries()}
    for key, value in values.items():
        about = entries.get(key)
        entries[key] = Entry(key, value, about.zh if about else "", about.en if about else "")
    sections: dict[str, list[str]] = {"": []}
    for entry in entries.values():
        section, _, name = entry.key.rpartition(".")
        lines = sections.setdefault(section, [])
        if comment := say(entry.zh, entry.en):
            lines.append(f"# {comment}")
        mark = "" if entry.given else "# "
        lines.append(f"{mark}{name} = {_toml(entry.value)}")
    head = say(
        "# 驿站的配置。所有键的说明见 docs/operations/configuration.md；修改后需重新启动。\n",
        "# Configuration of Yizhan. Keys: docs/operations/configuration.md. Restart to apply.\n",
    )
    parts = [head + "\n".join(sections.pop(""))]
    parts += [f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def _toml(value: Value) -> str:
    # JSON's texts, numbers, lists and truth values are TOML's too.
    return json.dumps(value, ensure_ascii=False)


def _entries() -> list[Entry]:
    return [
        Entry(
            "server_name",
            "",
            "服务器名，以后不能更改。",
            "The name of the server; it cannot be changed later.",
        ),
        Entry(
            "listen.client",
            "127.0.0.1:8008",
            "本机和反向代理使用的明文 HTTP。",
            "Plain HTTP, for this machine and for a reverse proxy.",
            given=False,
        ),
        Entry(
            "listen.trusted_proxies",
            ["127.0.0.1", "::1"],
            "可信的反向代理：由它们说明客户端的真实地址。",
            "Reverse proxies that may say which address a client has.",
            given=False,
        ),
        Entry(
            "listen.federation",
            ":8448",
            "其他服务器使用的端口；443 端口对外开放时不需要。",
            "The port for other servers; not needed while they can reach port 443.",
            given=False,
        ),
        Entry(
            "tls.certificate",
            "/etc/yizhan/tls/fullchain.pem",
            "有证书时，驿站自己在 443 端口提供服务。",
            "With a certificate, Yizhan itself serves port 443.",
            given=False,
        ),
        Entry("tls.key", "/etc/yizhan/tls/privkey.pem", "", "", given=False),
        Entry(
            "public.client_baseurl",
            "https://example.gov.cn",
            "客户端使用的网址。",
            "The URL that clients use.",
            given=False,
        ),
        Entry(
            "rate_limits.exempt_users",
            [],
            "不受频率限制的账号：机器人。",
            "Accounts without rate limits: the bot.",
        ),
        Entry(
            "database.url",
            "postgresql://yizhan@127.0.0.1/yizhan",
            "默认使用数据目录中的 SQLite。",
            "SQLite in the data folder, unless given.",
            given=False,
        ),
        Entry("database.password_file", "secrets/database.password", "", "", given=False),
        Entry(
            "database.bots_url",
            "postgresql://yizhan@127.0.0.1/yizhan_bots",
            "",
            "",
            given=False,
        ),
        Entry("database.bots_password_file", "secrets/database.password", "", "", given=False),
        Entry(
            "registration.enabled",
            value=False,
            zh="是否允许自行注册；关闭时用 yizhan user add 或 import 建立账号。",
            en="Whether people may register; if not, use yizhan user add or import.",
            given=False,
        ),
        Entry(
            "media.max_upload_bytes",
            100_000_000,
            "上传文件的上限（字节）。",
            "The largest upload, in bytes.",
            given=False,
        ),
        Entry(
            "federation.allow",
            [],
            '可以互通的服务器，如 ["other.gov.cn"]；["*"] 表示全部。',
            'Servers to exchange with, such as ["other.gov.cn"]; ["*"] means all.',
            given=False,
        ),
        Entry(
            "federation.trusted_ca_files",
            ["/etc/yizhan/tls/institution-ca.pem"],
            "除系统自带外，另行信任的证书颁发机构，如本单位的。",
            "Certificate authorities trusted besides the system's, such as your institution's.",
            given=False,
        ),
        Entry(
            "turn.uris",
            ["turn:turn.example.gov.cn?transport=udp"],
            "一对一通话所用的 TURN 服务器。",
            "The TURN server of one-to-one calls.",
            given=False,
        ),
        Entry("turn.shared_secret_file", "secrets/turn.secret", "", "", given=False),
        Entry(
            "outbound.allow",
            ["127.0.0.1:8009"],
            "服务器可以访问的内网地址：自己的推送网关。",
            "Private addresses that the server may call: its own push gateway.",
        ),
        Entry(
            "push_gateway.vapid_contact",
            "mailto:admin@example.gov.cn",
            "推送服务商联系您的地址。",
            "How a push service reaches you.",
            given=False,
        ),
        Entry(
            "bots.administrators",
            [],
            "机器人的管理员；其身份在本机用 yizhan bots trust 确认。",
            "Administrators of the bot; confirmed on this machine by yizhan bots trust.",
        ),
        Entry(
            "bots.language",
            "zh",
            '机器人的默认语言："zh" 或 "en"。',
            'The bot\'s default language: "zh" or "en".',
        ),
        Entry("logging.level", "info", "", "", given=False),
    ]
