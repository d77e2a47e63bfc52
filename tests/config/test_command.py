import base64
import datetime as dt
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from yizhan_config.command import _COMMANDS, _INIT, _UP, run
from yizhan_config.settings import find_all_keys, load
from yizhan_server.user_command import _COMMANDS as USER_COMMANDS
from yizhan_testing.compose import ROOT
from yizhan_testing.stand_ins import yizhan


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path, "tls")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.test")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, SHA256())
    )
    certificate, private = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def test_init_writes_a_private_folder_with_keys_and_a_configuration_that_loads(
    tmp_path: Path, certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    words = ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    assert run(["init", "--server-name", "a.test", f"--data={data}", *words]) == 0

    assert data.stat().st_mode & 0o777 == 0o700
    files = [path for path in data.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(data)) for path in files) == [
        "secrets/bots.password",
        "secrets/registration.secret",
        "secrets/signing.key",
        "secrets/vapid.pem",
        "yizhan.toml",
    ]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}

    settings = load(data=data)
    assert settings.server_name == "a.test"
    assert settings.public.client_baseurl == "https://a.test"
    assert settings.public.federation_server == "a.test:443"
    assert settings.tls.certificate == certificate[0]
    assert settings.bots.administrators == ("@admin:a.test",)
    assert settings.rate_limits.exempt_users == ("@yizhan:a.test",)

    algorithm, version, seed = settings.signing_key_file.read_text().split()
    assert (algorithm, len(base64.b64decode(seed + "="))) == ("ed25519", 32)
    assert version.startswith("a_")
    vapid = load_pem_private_key(settings.push_gateway.vapid_key_file.read_bytes(), None)
    assert isinstance(vapid, ec.EllipticCurvePrivateKey)
    assert isinstance(vapid.curve, ec.SECP256R1)

    said = capsys.readouterr().out
    for part in ("systemctl enable --now", "user import", str(data / "yizhan.toml")):
        assert part in said
    for secret in files:
        if secret.name != "yizhan.toml":
            assert secret.read_text().strip() not in said + (data / "yizhan.toml").read_text()


def test_init_changes_nothing_where_something_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", "--server-name", "a.test", "--data", str(tmp_path / "d"), "--behind-proxy"]
    assert run(words) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()}

    assert run(words) == 78
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert run([*words, "--keep"]) == 0
    (tmp_path / "d/yizhan.toml").rename(tmp_path / "away")
    assert run(words) == 78

    (tmp_path / "away").rename(tmp_path / "d/yizhan.toml")
    after = {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()}
    assert after == before


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    for name in ("one", "two"):
        data = str(tmp_path / name)
        run(["init", "--server-name", "a.test", "--data", data, "--behind-proxy"])
    for path in (tmp_path / "one/secrets").iterdir():
        assert path.read_bytes() != (tmp_path / "two/secrets" / path.name).read_bytes()


def test_init_behind_a_proxy_trusts_it_and_takes_any_key(tmp_path: Path) -> None:
    words = [
        *["init", "--server-name", "a.test", "--data", str(tmp_path / "d"), "--behind-proxy"],
        *["--public-url", "https://im.a.test", "--administrator", "wang"],
        *["--set", "listen.client=:8008", "--set", "media.max_upload_bytes=5"],
        *["--set", 'federation.allow=["b.test"]'],
    ]
    assert run(words) == 0

    settings = load(data=tmp_path / "d")
    assert settings.listen.trusted_proxies == ("127.0.0.1", "::1")
    assert settings.public.client_baseurl == "https://im.a.test"
    assert settings.bots.administrators == ("@wang:a.test",)
    assert str(settings.listen.client) == ":8008"
    assert settings.media.max_upload_bytes == 5
    assert settings.federation.allow == ("b.test",)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--behind-proxy", "--tls-cert", "c", "--tls-key", "k"], "or else --behind-proxy"),
        ([], "or else --behind-proxy"),
        (["--tls-cert", "c"], "or else --behind-proxy"),
        (["--behind-prox"], "perhaps you meant --behind-proxy"),
        (["--behind-proxy", "--public-url"], "a value is missing: --public-url URL"),
        (["--behind-proxy", "--set", "x"], "--set KEY=VALUE"),
        (["--behind-proxy", "--set", "rooms.version=1"], "rooms.default_version"),
        (["--behind-proxy", "--public-url", "a.test"], "public.client_baseurl"),
        (["--tls-cert", "absent.crt", "--tls-key", "absent.key"], "absent.key"),
    ],
)
def test_init_refuses_what_it_does_not_understand_and_writes_nothing(
    tmp_path: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(["init", "--server-name", "a.test", "--data", str(tmp_path / "d"), *words])

    assert status in {64, 78}
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_init_refuses_a_certificate_of_another_key_and_one_that_everybody_can_read(
    tmp_path: Path, certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = make_certificate(tmp_path, "other")
    start = ["init", "--server-name", "a.test", "--data", str(tmp_path / "d")]
    assert run([*start, "--tls-cert", str(other), "--tls-key", str(certificate[1])]) == 78
    assert "belong together" in capsys.readouterr().err

    certificate[1].chmod(0o644)
    assert run([*start, "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]) == 78
    assert "chmod 600" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()

    certificate[1].chmod(0o640)
    assert run([*start, "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]) == 0


@pytest.mark.parametrize("language", ["zh_CN.UTF-8", "en_GB.UTF-8"])
def test_the_commented_configuration_names_only_keys_that_exist(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", language)
    data = tmp_path / "d"
    run(["init", "--server-name", "a.test", "--data", str(data), "--behind-proxy"])

    text = (data / "yizhan.toml").read_text()
    # Every example taken in must load as well: nobody should uncomment a mistake.
    examples = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in text.splitlines()
    )
    (data / "yizhan.toml").write_text(examples)
    load(data=data)
    assert examples.count(" = ") > 20
    assert "data" in find_all_keys()


def test_the_user_command_is_passed_on_with_its_files_first(
    stand_ins: Path, tmp_path: Path
) -> None:
    data = tmp_path / "d"
    run(["init", "--server-name", "a.test", "--data", str(data), "--behind-proxy"])
    words = ["user", "list", "--config", str(data / "yizhan.toml"), "--json", "--data", str(data)]
    with yizhan(stand_ins, *words) as terminal:
        assert terminal.rest() == "[]\n"
    assert terminal.process.returncode == 0


def test_a_command_without_a_data_folder_says_which_option_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("yizhan_config.programs.SYSTEM_CONFIG", tmp_path / "absent")
    assert run(["user", "list"]) == 78
    assert "--data DIR" in capsys.readouterr().err
    assert run(["serve", "--data", str(tmp_path / "none")]) == 78
    assert "server_name is missing" in capsys.readouterr().err


def test_help_lists_every_command_in_the_language_of_the_locale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, word in (("en_US.UTF-8", "homeserver"), ("zh_CN.UTF-8", "聊天服务器")):
        monkeypatch.setenv("LC_ALL", language)
        assert run(["help"]) == 0
        said = capsys.readouterr().out
        for name in ("up", "init", "serve", "user", "bots"):
            assert f"yizhan {name} " in said
        assert word in said
    assert run(["fly"]) == 64
    assert "yizhan fly" in capsys.readouterr().err


def test_the_installation_guide_uses_only_commands_and_options_that_exist() -> None:
    guide = (ROOT / "docs/operations/install.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)).replace("\\\n", " ")
    start = r"^(?:.*(?:-u yizhan |/bin/|exec homeserver ))?yizhan ([a-z]+)(.*)$"
    typed = re.findall(start, blocks, re.MULTILINE)
    assert {name for name, _ in typed} == {"help", "init", "up", "user", "bots"}
    assert {"init", "up", "user", "bots"} <= set(_COMMANDS)
    for name, rest in typed:
        options = re.findall(r"--([a-z-]+)", rest)
        known = {"init": _INIT, "up": _UP}.get(name)
        if known is not None:
            assert set(options) <= {option.name for option in known}
    subcommands = {rest.split()[0] for name, rest in typed if name == "user"}
    assert subcommands <= set(USER_COMMANDS)


def test_the_command_imports_no_other_program() -> None:
    code = (
        "import sys, yizhan_config.command; "
        "print([n for n in sys.modules if n.startswith('yizhan_') and '.' not in n])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['yizhan_config']"
