import json
from pathlib import Path

import pytest

from yizhan_config.address import Address
from yizhan_config.errors import ConfigurationError
from yizhan_config.secret_files import read_secret, write_secret
from yizhan_config.settings import Settings, find_all_keys, get_database_url, load

DOCUMENTATION = Path(__file__).parents[2] / "docs/operations/configuration.md"


def write(folder: Path, text: str, name: str = "yizhan.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(config: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as refused:
        load(config)
    return refused.value


def test_a_name_and_a_data_folder_are_enough(tmp_path: Path) -> None:
    settings = load(data=tmp_path, overrides={"server_name": "a.test"})

    assert settings.listen.client == Address("127.0.0.1", 8008)
    assert settings.database.url == f"sqlite://{tmp_path}/homeserver.db"
    assert settings.database.bots_url == f"sqlite://{tmp_path}/bots.db"
    assert settings.public.client_baseurl == "http://127.0.0.1:8008"
    assert settings.bots.user_id == "@yizhan:a.test"
    assert settings.registration.shared_secret_file == tmp_path / "secrets/registration.secret"
    assert not settings.registration.enabled
    assert settings.rate_limits.enabled
    assert settings.federation.allow == ()


def test_the_file_in_the_data_folder_is_found_and_overrides_win_over_it(tmp_path: Path) -> None:
    write(tmp_path, 'server_name = "a.test"\n[listen]\nclient = "127.0.0.1:1"\ntls = ":444"\n')

    settings = load(data=tmp_path, overrides={"listen.client": "[::1]:2"})

    assert settings.listen.client == Address("::1", 2)
    assert settings.listen.tls == Address("", 444)


def test_paths_are_relative_to_the_data_folder_which_defaults_to_that_of_the_file(
    tmp_path: Path,
) -> None:
    here = write(tmp_path, 'server_name = "a.test"\nsigning_key_file = "my.key"\n')
    elsewhere = write(tmp_path, 'server_name = "a.test"\ndata = "/srv/yizhan"\n', "b.toml")

    assert load(here).signing_key_file == tmp_path / "my.key"
    assert load(elsewhere).media.path == Path("/srv/yizhan/media")
    assert load(elsewhere, tmp_path).media.path == tmp_path / "media"


def test_json_has_the_same_keys_and_the_same_errors(tmp_path: Path) -> None:
    document = {"server_name": "a.test", "registration": {"enabled": True}}
    assert load(write(tmp_path, json.dumps(document), "a.json")).registration.enabled

    text = '{"server_name": "a.test",\n "media": {"path": "m"},\n "rooms": {\n  "versions": 1}}'
    error = refusal(write(tmp_path, text, "b.json"))
    assert (error.key, error.line) == ("rooms.versions", 4)


@pytest.mark.parametrize(
    ("text", "key", "line", "remedy"),
    [
        ("\n[registration]\nenable = true", "registration.enable", 3, "registration.enabled"),
        ("registraton = {}", "registraton", 1, "registration"),
        (
            "[rooms]\nzzz = 1",
            "rooms.zzz",
            2,
            "default_version, encrypt_by_default, redaction_retention_days",
        ),
        ("[rate_limits]\n# a\nlogin.bursts = 1", "rate_limits.login.bursts", 3, "burst"),
        ("[listen]\nclient = 8008", "listen.client", 2, '"host:port"'),
        ('[listen]\nclient = "127.0.0.1:99999"', "listen.client", 2, '"host:port"'),
        ('[media]\nmax_upload_bytes = "1 GB"', "media.max_upload_bytes", 2, "whole number"),
        ("[media]\nmax_upload_bytes = true", "media.max_upload_bytes", 2, "whole number"),
        ("[registration]\nenabled = 1", "registration.enabled", 2, "true or false"),
        ("[rate_limits.media]\nper_second = 0", "rate_limits.media.per_second", 2, "above 0"),
        ('[rooms]\ndefault_version = "13"', "rooms.default_version", 2, '"11" or "12"'),
        ('[bots]\nadministrators = ["li"]', "bots.administrators", 2, "full user id"),
        ('[public]\nclient_baseurl = "a.test"', "public.client_baseurl", 2, "https://"),
        ('[tls]\n\ncertificate = "c.pem"', "tls.certificate", 3, "tls.key"),
        ('[tls]\ncertificate = ""', "tls.certificate", 2, "a path in quotes"),
        ('[listen]\nfederation = ":8448"', "listen.federation", 2, "tls.certificate"),
        ('[email]\nhost = "mail.a.test"', "email.host", 2, "email.from_address"),
        ('[email]\nfrom_address = "Yizhan <a@a.test>"', "email.from_address", 2, "e-mail address"),
        ('[email]\nusername = "a"', "email.username", 2, "email.password_file"),
        ('[email]\npassword_file = "a"', "email.password_file", 2, "email.username"),
        (
            '[email]\nsecurity = "none"\nusername = "a"\npassword_file = "b"',
            "email.security",
            2,
            "starttls",
        ),
        ("[registration]\nrequire_email = true", "registration.require_email", 2, "email.host"),
        ('[turn]\nuris = [\n """a\n""", 5]', "turn.uris", 2, "a list in brackets"),
        ("media = 5", "media", 1, "[media]"),
        (
            "[federation.peers.'a.test']\nper_second = 0\nburst = 1",
            "federation.peers",
            1,
            "federation.peers.",
        ),
        (
            "[federation.peers.'b.test']\nper_second = 1\nburst = 1",
            "federation.peers.b.test",
            1,
            "federation.allow",
        ),
        ('[push_gateway.apps.a]\nkind = "x"', "push_gateway.apps", 1, "push_gateway.apps."),
        ('[push_gateway.apps.a]\nkinds = "x"', "push_gateway.apps", 1, "push_gateway.apps."),
    ],
)
def test_a_wrong_key_or_value_is_told_in_one_sentence_with_key_line_and_remedy(
    tmp_path: Path, text: str, key: str, line: int, remedy: str
) -> None:
    error = refusal(write(tmp_path, f'server_name = "a.test"\n{text}'))

    assert (error.key, error.line) == (key, line + 1)
    for sentence in (error.en, error.zh):
        assert sentence.startswith(key)
        assert str(line + 1) in sentence
        assert "\n" not in sentence
    assert remedy in error.en


def test_a_typing_error_in_the_file_names_its_line(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, 'server_name = "a.test"\n[listen\n'))
    assert error.line == 2
    assert str(tmp_path / "yizhan.toml") in error.en


@pytest.mark.parametrize("name", ["", "a b", "a/b", "https://a.test", "@a:b", "x" * 300])
def test_a_server_name_that_no_server_can_have_is_refused(tmp_path: Path, name: str) -> None:
    error = refusal(write(tmp_path, f'server_name = "{name}"'))
    assert error.key == "server_name"


def test_no_file_no_name_and_no_folder_are_each_told_with_a_remedy(tmp_path: Path) -> None:
    assert "--config" in refusal(tmp_path / "absent.toml").en
    assert "yizhan init" in refusal(write(tmp_path, "")).en
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert "--data" in refused.value.en


def test_errors_follow_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(write(tmp_path, 'server_name = "a.test"\nx = 1'))
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)

    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert str(error) == error.zh
    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    assert str(error) == error.en
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert str(error) == error.zh


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(data=tmp_path, overrides={"server_name": "a.test"})
    with pytest.raises(AttributeError):
        settings.rooms.default_version = "1"  # type: ignore[misc]


def test_well_known_answers_follow_from_certificate_or_public_address(tmp_path: Path) -> None:
    def public(**overrides: object) -> tuple[str, str]:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        settings = load(data=tmp_path, overrides={"server_name": "a.test", **dotted})
        return settings.public.client_baseurl, settings.public.federation_server

    assert public() == ("http://127.0.0.1:8008", "")
    with_certificate = public(tls__certificate="c", tls__key="k")
    assert with_certificate == ("https://a.test", "a.test:443")
    behind_proxy = public(public__client_baseurl="https://im.a.test")
    assert behind_proxy == ("https://im.a.test", "im.a.test:443")


def test_a_secret_that_others_can_read_is_refused_until_it_is_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets/s"
    write_secret(path, "pass word")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(path) == "pass word"

    path.chmod(0o640)
    with pytest.raises(ConfigurationError) as refused:
        read_secret(path)
    assert "chmod 600" in refused.value.en
    assert "pass word" not in refused.value.en + refused.value.zh

    with pytest.raises(FileExistsError):
        write_secret(path, "another")
    with pytest.raises(ConfigurationError):
        read_secret(tmp_path / "absent")


def test_the_password_of_a_database_comes_from_its_file(tmp_path: Path) -> None:
    write_secret(tmp_path / "pw", "p@ss/word")
    url = "postgresql://yizhan@db.test:5433/yizhan?sslmode=require"
    complete = "postgresql://yizhan:p%40ss%2Fword@db.test:5433/yizhan?sslmode=require"

    assert get_database_url(url, tmp_path / "pw") == complete
    assert get_database_url(url, None) == url


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    rows = [
        line.split("`")[1]
        for line in DOCUMENTATION.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert rows == list(find_all_keys())


def test_every_documented_default_is_the_default() -> None:
    settings = load(data=Path("/DATA"), overrides={"server_name": "example.gov.cn"})
    for line in DOCUMENTATION.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        _, key, default, _ = (part.strip() for part in line.split("|", 3))
        assert default.strip("`") == shown(settings, key.strip("`")), key


def shown(settings: Settings, key: str) -> str:
    value: object = settings
    for name in key.split("."):
        value = getattr(value, name)
    if key in {"server_name", "data"} or value is None:
        return ""
    if isinstance(value, Path):
        return json.dumps(str(value.relative_to("/DATA")))
    plain = value if isinstance(value, dict | tuple | str | bool | int | float) else str(value)
    return json.dumps(plain, ensure_ascii=False)
