"""Names that lead to this machine, and certificates for them: what a document takes for granted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS = Path("/etc/hosts")


@contextmanager
def name_in_hosts(name: str, address: str) -> Iterator[None]:
    """Let the name lead to the address, for every program of this machine."""
    line = f"{address} {name}\n"
    with HOSTS.open("a", encoding="utf-8") as hosts:
        hosts.write(line)
    try:
        yield
    finally:
        # In place: in a container the file is a mount, which cannot be replaced.
        HOSTS.write_text(HOSTS.read_text(encoding="utf-8").replace(line, ""), encoding="utf-8")


def make_certificates(folder: Path, name: str) -> Path:
    """Write fullchain.pem and privkey.pem, signed by a new authority; returns its ca.pem."""
    now = dt.datetime.now(dt.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        for text in ("An institution's own authority", name)
    ]

    def certificate(of: int, extension: x509.ExtensionType, *, critical: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[of])
            .issuer_name(names[0])
            .public_key(keys[of].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=of == 0, path_length=None), critical=True)
            .add_extension(extension, critical=critical)
        )
        if of:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(usage, critical=False)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    usage = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
    authority = certificate(0, usage, critical=False)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name)])
    (folder / "ca.pem").write_bytes(authority)
    (folder / "fullchain.pem").write_bytes(certificate(1, alternatives, critical=False) + authority)
    (folder / "privkey.pem").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "ca.pem"
