"""The settings of all programs: one TOML (or JSON) file, read once into frozen sections.

A component receives *its* section, never the whole. Whatever is wrong is a `ConfigurationError`
that names key, line and remedy. Every key is described in docs/operations/configuration.md, and
a test compares the two. Secrets are never in the file: a key ends in `_file` and names one.

After `load`, paths are absolute and every value that follows from others (`database.url`,
`public.client_baseurl`, ...) is filled in: nobody else computes them again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import Meta
from msgspec.structs import replace

from yizhan_config.address import Address
from yizhan_config.document import Document, Section, find_keys
from yizhan_config.errors import ConfigurationError
from yizhan_config.secret_files import read_secret

FILE_NAME: Final = "yizhan.toml"
"""The file that is looked for in the data folder when none is named."""

BOT_LOCALPART: Final = "yizhan"


def _described(pattern: str, zh: str, en: str) -> Meta:
    return Meta(pattern=pattern, extra={"zh": zh, "en": en})


# The server-name grammar of the specification's appendix; lengths are checked by the pattern.
_NAME = r"(?:[0-9A-Za-z.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"

ServerName = Annotated[
    str,
    _described(rf"^{_NAME}$", '服务器名，如 "example.gov.cn"', 'a name such as "example.gov.cn"'),
]
ServerPattern = Annotated[
    str,
    _described(rf"^(?:\*|{_NAME})$", '服务器名或 "*"', 'a server name, or "*" for every server'),
]
UserId = Annotated[
    str, _described(rf"^@[^:\s]+:{_NAME}$", '用户 ID，如 "@li:example.gov.cn"', "a full user id")
]
SupportContact = Annotated[
    str,
    _described(
        rf"^@[^:\s]+:{_NAME}$|^[^\s@]+@[^\s@]+$",
        "用户 ID 或邮箱",
        "a full user id or an e-mail address",
    ),
]
BaseUrl = Annotated[
    str,
    _described(
        r"^$|^https?://[^\s/?#]+(?:/[^\s?#]*[^\s?#/])?$",
        '末尾没有 "/" 的网址，如 "https://im.example.gov.cn"',
        'a URL without a slash at its end, such as "https://im.example.gov.cn"',
    ),
]
DatabaseUrl = Annotated[
    str,
    _described(
        r"^$|^sqlite:///|^postgres(?:ql)?://",
        '"sqlite:///绝对路径" 或 "postgresql://用户@主机/库名"',
        '"sqlite:///absolute/path" or "postgresql://user@host/database"',
    ),
]
Contact = Annotated[
    str,
    _described(
        r"^$|^mailto:[^\s@]+@[^\s@]+$|^https://\S+$",
        '"mailto:邮箱" 或 https 网址',
        '"mailto:ADDRESS" or an https URL',
    ),
]
OutboundTarget = Annotated[
    str,
    _described(
        r"^(?:\*\.)?[\w.-]+(?:/[0-9]{1,3})?(?::[0-9]{1,5})?$"
        r"|^\[[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?\](?::[0-9]{1,5})?$"
        r"|^[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?$",
        '主机名、地址或网段，可带端口，如 "push.internal"、"10.0.0.5:8443"、"10.1.0.0/16"',
        'a host, an address or a network, with or without a port, such as "push.internal", '
        '"10.0.0.5:8443", "10.1.0.0/16"',
    ),
]
MailAddress = Annotated[
    str,
    _described(
        r"^$|^[^\s@<>]+@[^\s@<>]+$",
        '邮箱，如 "im@example.gov.cn"',
        'an e-mail address, such as "im@example.gov.cn"',
    ),
]
Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]


class Listen(Section, frozen=True, kw_only=True):
    """Where the homeserver listens."""

    client: Address = Address("127.0.0.1", 8008)
    federation: Address | None = None
    tls: Address = Address("", 443)
    trusted_proxies: tuple[str, ...] = ()
    compression: bool = True


class Tls(Section, frozen=True, kw_only=True):
    """The certificate with which the homeserver serves `listen.tls` and `listen.federation`."""

    certificate: Path | None = None
    key: Path | None = None


class Public(Section, frozen=True, kw_only=True):
    """How others reach this server; the answers are served as well-known files."""

    client_baseurl: BaseUrl = ""
    federation_server: Annotated[
        str, _described(rf"^$|^{_NAME}$", "主机名:端口", "a host and a port")
    ] = ""
    policy_server_key: Annotated[
        str,
        _described(
            r"^$|^[A-Za-z0-9+/]{43}$",
            "ed25519 公钥（无填充的 base64）",
            "an ed25519 public key in base64 without padding",
        ),
    ] = ""
    support_contacts: tuple[SupportContact, ...] = ()
    support_page: BaseUrl = ""


class Database(Section, frozen=True, kw_only=True):
    """The databases of the homeserver and of the bots."""

    url: DatabaseUrl = ""
    password_file: Path | None = None
    bots_url: DatabaseUrl = ""
    bots_password_file: Path | None = None


class Registration(Section, frozen=True, kw_only=True):
    """Who may create an account."""

    enabled: bool = False
    require_token: bool = True
    require_email: bool = False
    guests: bool = False
    shared_secret_file: Path = Path("secrets/registration.secret")
    minimum_password_length: Positive = 8


class Sessions(Section, frozen=True, kw_only=True):
    """How long signing in lasts."""

    access_token_lifetime_seconds: Positive = 3600
    confirmation_lifetime_seconds: Positive = 900
    query_string_tokens: bool = False


class Oidc(Section, frozen=True, kw_only=True):
    """The OpenID Connect provider through which people may sign in."""

    issuer: Annotated[
        str,
        _described(r"^$|^https?://[^\s?#]+$", "提供方的网址", "the provider's https URL"),
    ] = ""
    name: str = "统一身份认证"
    client_id: str = ""
    client_secret_file: Path | None = None
    scopes: tuple[str, ...] = ("openid", "profile")
    localpart_claim: str = "preferred_username"
    display_name_claim: str = "name"
    create_accounts: bool = True
    link_existing_accounts: bool = False


class Cas(Section, frozen=True, kw_only=True):
    """The CAS server through which people may sign in."""

    server_url: BaseUrl = ""
    name: str = "统一身份认证"
    validation: Literal[
        "p3/serviceValidate", "serviceValidate", "p3/proxyValidate", "proxyValidate"
    ] = "p3/serviceValidate"
    display_name_attribute: str = "displayName"
    create_accounts: bool = True
    link_existing_accounts: bool = False


class Sso(Section, frozen=True, kw_only=True):
    """Signing in through others who vouch for people."""

    oidc: Oidc = Oidc()
    cas: Cas = Cas()


class RateLimit(Section, frozen=True, kw_only=True):
    """A leaky bucket: `burst` at once, then `per_second`."""

    per_second: Rate
    burst: Positive


class RateLimits(Section, frozen=True, kw_only=True):
    """How much one user (or, before signing in, one address) may do."""

    enabled: bool = True
    exempt_users: tuple[UserId, ...] = ()
    messages: RateLimit = RateLimit(per_second=5, burst=50)
    login: RateLimit = RateLimit(per_second=0.5, burst=20)
    registration: RateLimit = RateLimit(per_second=0.2, burst=5)
    email: RateLimit = RateLimit(per_second=0.02, burst=10)
    joins: RateLimit = RateLimit(per_second=1, burst=20)
    invites: RateLimit = RateLimit(per_second=1, burst=30)
    media: RateLimit = RateLimit(per_second=5, burst=100)
    federation: RateLimit = RateLimit(per_second=50, burst=500)
    questions: RateLimit = RateLimit(per_second=5, burst=200)


class Media(Section, frozen=True, kw_only=True):
    """Files that people upload."""

    path: Path = Path("media")
    max_upload_bytes: Positive = 100_000_000
    max_image_pixels: Positive = 40_000_000
    unauthenticated_download: bool = False
    remote_days: Count = 30
    remote_bytes: Positive = 10_000_000_000


HostPattern = Annotated[
    str,
    _described(
        r"^[\w*?.-]+$",
        '主机名，可含 "*"，如 "*.example.gov.cn"',
        'a host name, "*" standing for any part, such as "*.example.gov.cn"',
    ),
]


class UrlPreviews(Section, frozen=True, kw_only=True):
    """Previews of the pages that messages link to."""

    enabled: bool = False
    allow: tuple[HostPattern, ...] = ()
    deny: tuple[HostPattern, ...] = ()
    max_image_bytes: Positive = 5_000_000
    lifetime_hours: Positive = 24


RoomVersion = Literal["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]


class Rooms(Section, frozen=True, kw_only=True):
    """What new rooms are like."""

    default_version: RoomVersion = "12"
    encrypt_by_default: Literal["private", "all", "off"] = "private"
    redaction_retention_days: Count = 7


class Directory(Section, frozen=True, kw_only=True):
    """Who finds whom, and which rooms."""

    everybody: bool = True
    rooms_without_sign_in: bool = False


class Retention(Section, frozen=True, kw_only=True):
    """How long messages are kept."""

    enabled: bool = False
    default_days: Count = 0
    shortest_days: Count = 1
    longest_days: Count = 0
    self_destruction: bool = False


class ServerNotices(Section, frozen=True, kw_only=True):
    """In whose name the server speaks to people, and where."""

    localpart: Annotated[
        str, _described(r"^[a-z0-9._=/+-]*$", "用户名", "a user name, without @ and server")
    ] = ""
    display_name: str = "系统通知 Server notices"
    room_name: str = "系统通知 Server notices"


class DelayedEvents(Section, frozen=True, kw_only=True):
    """Events that clients leave with the server to be sent later, as calls do."""

    max_delay_seconds: Count = 86_400
    max_per_user: Positive = 100


class Presence(Section, frozen=True, kw_only=True):
    """Who is online."""

    enabled: bool = True
    federated: bool = False


class PeerRate(RateLimit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one server, named here, may ask."""


class Federation(Section, frozen=True, kw_only=True):
    """Which other servers may speak with this one, and how they are asked."""

    allow: tuple[ServerPattern, ...] = ()
    private_addresses: tuple[OutboundTarget, ...] = ()
    trusted_ca_files: tuple[Path, ...] = ()
    verify_tls: bool = True
    trusted_key_servers: tuple[ServerName, ...] = ()
    timeout_seconds: Positive = 60
    transfer_timeout_seconds: Positive = 600
    peers: Annotated[
        dict[ServerName, PeerRate],
        Meta(
            extra={
                "zh": '每个服务器一节，如 [federation.peers."example.gov.cn"]，'
                "其中 per_second 大于 0，burst 为不小于 1 的整数",
                "en": 'a table for each server, such as [federation.peers."example.gov.cn"] '
                "with per_second above 0 and burst, a whole number of at least 1",
            }
        ),
    ] = {}  # noqa: RUF012 (msgspec makes a new one for each section)


class Identity(Section, frozen=True, kw_only=True):
    """Which identity servers people may use through this server."""

    allow: tuple[ServerPattern, ...] = ()


class Email(Section, frozen=True, kw_only=True):
    """The mail server through which addresses of accounts are verified."""

    host: Annotated[str, _described(r"^[\w.:-]*$", "主机名或地址", "a host or an address")] = ""
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password_file: Path | None = None
    from_address: MailAddress = ""


class Turn(Section, frozen=True, kw_only=True):
    """The TURN server that clients are told for one-to-one calls."""

    uris: tuple[str, ...] = ()
    shared_secret_file: Path | None = None
    user_lifetime_seconds: Positive = 86_400


class Appservices(Section, frozen=True, kw_only=True):
    """Bridges and other programs that own users and rooms here."""

    registrations: tuple[Path, ...] = ()


class Outbound(Section, frozen=True, kw_only=True):
    """Whom the homeserver may call although the address is private; see `outbound.AllowList`."""

    allow: tuple[OutboundTarget, ...] = ()
    trusted_ca_files: tuple[Path, ...] = ()


PushDetail = Literal["ids", "names", "content"]


class PushApp(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one client application is notified."""

    kind: Literal["webpush"]
    detail: PushDetail | None = None


class PushGateway(Section, frozen=True, kw_only=True):
    """The program that hands notifications to the push services."""

    listen: Address = Address("127.0.0.1", 8009)
    vapid_key_file: Path = Path("secrets/vapid.pem")
    vapid_contact: Contact = ""
    outbound_allow: tuple[OutboundTarget, ...] = ()
    webpush_default: bool = True
    detail: PushDetail = "ids"
    ttl_seconds: Positive = 86_400
    apps: Annotated[
        dict[str, PushApp],
        Meta(
            extra={
                "zh": '每个应用一节，如 [push_gateway.apps."org.example.web"]，'
                '其中 kind = "webpush"，可选 detail',
                "en": 'a table for each app, such as [push_gateway.apps."org.example.web"] '
                'with kind = "webpush" and, if wanted, detail',
            }
        ),
    ] = {}  # noqa: RUF012 (msgspec makes a new one for each section)


class Bots(Section, frozen=True, kw_only=True):
    """The office bot and its pages."""

    listen: Address = Address("127.0.0.1", 8010)
    upstream_url: BaseUrl = ""
    public_baseurl: BaseUrl = ""
    homeserver_url: BaseUrl = ""
    user_id: Annotated[
        str, _described(rf"^$|^@[^:\s]+:{_NAME}$", "机器人的用户 ID", "a full user id")
    ] = ""
    display_name: str = "驿站助手"
    password_file: Path = Path("secrets/bots.password")
    administrators: tuple[UserId, ...] = ()
    allow_servers: tuple[ServerPattern, ...] = ()
    language: Literal["zh", "en"] = "zh"


class Logging(Section, frozen=True, kw_only=True):
    """What the programs write to their standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(Section, frozen=True, kw_only=True):
    """Everything that one file says."""

    server_name: ServerName
    data: Path
    signing_key_file: Path = Path("secrets/signing.key")
    old_signing_keys_file: Path = Path("secrets/old-signing.keys")
    listen: Listen = Listen()
    tls: Tls = Tls()
    public: Public = Public()
    database: Database = Database()
    registration: Registration = Registration()
    sessions: Sessions = Sessions()
    sso: Sso = Sso()
    rate_limits: RateLimits = RateLimits()
    media: Media = Media()
    url_previews: UrlPreviews = UrlPreviews()
    rooms: Rooms = Rooms()
    directory: Directory = Directory()
    retention: Retention = Retention()
    server_notices: ServerNotices = ServerNotices()
    delayed_events: DelayedEvents = DelayedEvents()
    presence: Presence = Presence()
    federation: Federation = Federation()
    identity: Identity = Identity()
    email: Email = Email()
    turn: Turn = Turn()
    appservices: Appservices = Appservices()
    outbound: Outbound = Outbound()
    push_gateway: PushGateway = PushGateway()
    bots: Bots = Bots()
    logging: Logging = Logging()


def load(
    config: Path | None = None,
    data: Path | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings: `overrides` (dotted keys) win over `data`, which wins over the file.

    Without `config`, DATA/yizhan.toml is read if it exists. Without `data`, the file's key
    `data` counts, else the folder that holds the file. Nothing is created.
    """
    if config is None and data is not None and (data / FILE_NAME).exists():
        config = data / FILE_NAME
    document = Document(config)
    given = document.read()
    for key, value in (overrides or {}).items():
        _put(given, key, value)
    folder = _find_data_folder(document, given.get("data"), data)
    given["data"] = str(folder)
    if "server_name" not in given:
        raise ConfigurationError(
            '缺少 server_name；请在配置文件中加上 server_name = "example.gov.cn"，'
            "或运行 yizhan init。",
            'server_name is missing; add server_name = "example.gov.cn" to the configuration, '
            "or run yizhan init.",
            key="server_name",
        )
    settings = document.convert(Settings, given, folder)
    _check_together(settings, document)
    return _filled_in(settings)


def find_all_keys() -> Iterator[str]:
    """Yield every dotted key that a file may hold, in the order of the sections."""
    return find_keys(Settings)


def get_database_url(url: str, password_file: Path | None) -> str:
    """Return the database `url` with the password from its file, if there is one, put in."""
    if password_file is None:
        return url
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    password = quote(read_secret(password_file), safe="")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}"))


def _put(given: dict[str, Any], dotted: str, value: object) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        given = given.setdefault(section, {})
    given[name] = value


def _find_data_folder(document: Document, in_file: object, data: Path | None) -> Path:
    if data is not None:
        return data.absolute()
    if in_file is not None and not (isinstance(in_file, str) and in_file):
        document.refuse(("data",), zh="应为加引号的路径", en="must be a path in quotes")
    if document.path is not None:
        return document.path.absolute().parent / (in_file or "")
    raise ConfigurationError(
        "不知道数据目录在哪里；请用 --data 指出。",
        "it is not known where the data folder is; name it by --data DIR.",
    )


def _check_together(settings: Settings, document: Document) -> None:
    """Refuse values that are right one by one and wrong together."""
    for given, missing in (("certificate", "key"), ("key", "certificate")):
        if getattr(settings.tls, given) and not getattr(settings.tls, missing):
            document.refuse(
                ("tls", given),
                zh=f"已给出，却没有 tls.{missing}；请把两个都写上",
                en=f"is given without tls.{missing}; give both",
            )
    if settings.sso.oidc.issuer and settings.sso.cas.server_url:
        document.refuse(
            ("sso", "cas", "server_url"),
            zh="不能与 sso.oidc.issuer 同时使用；请只保留一个",
            en="cannot be used together with sso.oidc.issuer; keep one of them",
        )
    if settings.sso.oidc.issuer and not settings.sso.oidc.client_id:
        document.refuse(
            ("sso", "oidc", "issuer"),
            zh="已给出，却没有 sso.oidc.client_id；请写上在提供方登记的客户端标识",
            en="is given without sso.oidc.client_id; give the client id registered there",
        )
    _check_email(settings, document)
    for name in settings.federation.peers:
        if not {name, "*"} & set(settings.federation.allow):
            document.refuse(
                ("federation", "peers", name),
                zh="不在 federation.allow 中；请在那里写上，或删去这一节",
                en="is not in federation.allow; add it there, or remove this table",
            )
    if settings.listen.federation and not settings.tls.certificate:
        document.refuse(
            ("listen", "federation"),
            zh="需要证书；请写上 tls.certificate 和 tls.key，或在反向代理中转发 8448 端口",
            en="needs a certificate; give tls.certificate and tls.key, or let the reverse proxy "
            "forward port 8448",
        )


def _check_email(settings: Settings, document: Document) -> None:
    email = settings.email
    if email.host and not email.from_address:
        document.refuse(
            ("email", "host"),
            zh="已给出，却没有 email.from_address；请写上发信人的邮箱",
            en="is given without email.from_address; give the address that mails come from",
        )
    if bool(email.username) != (email.password_file is not None):
        document.refuse(
            ("email", "username" if email.username else "password_file"),
            zh="要与 email.username 和 email.password_file 中的另一个一起给出",
            en="needs the other one of email.username and email.password_file",
        )
    if email.username and email.security == "none":
        document.refuse(
            ("email", "security"),
            zh='为 "none" 时密码会明文发送；请用 "starttls" 或 "tls"，或不写用户名',
            en='"none" would send the password in the clear; use "starttls" or "tls", '
            "or no user name",
        )
    if settings.registration.require_email and not email.host:
        document.refuse(
            ("registration", "require_email"),
            zh="需要 email.host；请写上发信服务器",
            en="needs email.host; give the mail server",
        )


def _filled_in(settings: Settings) -> Settings:
    """Give every key that follows from others its value."""
    name, listen = settings.server_name, settings.listen
    local = f"http://{listen.client.reachable}"
    public_url = settings.public.client_baseurl or (
        f"https://{name}" if settings.tls.certificate else local
    )
    federation_server = settings.public.federation_server
    if not federation_server and public_url.startswith("https://"):
        federation_server = urlsplit(public_url).netloc
        if urlsplit(public_url).port is None:
            federation_server += ":443"
    database, bots = settings.database, settings.bots
    return replace(
        settings,
        public=replace(
            settings.public, client_baseurl=public_url, federation_server=federation_server
        ),
        database=replace(
            database,
            url=database.url or f"sqlite://{settings.data / 'homeserver.db'}",
            bots_url=database.bots_url or f"sqlite://{settings.data / 'bots.db'}",
        ),
        push_gateway=replace(
            settings.push_gateway,
            vapid_contact=settings.push_gateway.vapid_contact
            or f"mailto:postmaster@{urlsplit(f'//{name}').hostname}",
        ),
        bots=replace(
            bots,
            upstream_url=bots.upstream_url or f"http://{bots.listen.reachable}",
            public_baseurl=bots.public_baseurl or f"{public_url}/office",
            homeserver_url=bots.homeserver_url or local,
            user_id=bots.user_id or f"@{BOT_LOCALPART}:{name}",
        ),
    )
