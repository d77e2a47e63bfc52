"""Encryption and tokens agree with the RFCs and with an independent implementation."""

import base64
import os

import http_ece  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from yizhan_bridges.webpush.encryption import MAX_BODY_BYTES, MAX_PLAINTEXT_BYTES, encrypt
from yizhan_bridges.webpush.vapid import VapidKey


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_example_of_rfc_8291_is_reproduced() -> None:
    # Appendix A: the plaintext, the keys and the salt of §5, and the resulting body.
    curve = ec.SECP256R1()
    message_key = ec.derive_private_key(
        int.from_bytes(decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), "big"), curve
    )
    browser_key = ec.EllipticCurvePublicKey.from_encoded_point(
        curve,
        decode(
            "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcx"
            "aOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
        ),
    )

    body = encrypt(
        b"When I grow up, I want to be a watermelon",
        browser_key,
        decode("BTBZMqHH6r4Tts7J_aSIgg"),
        message_key=message_key,
        salt=decode("DGv6ra1nlYgDCS1FRnbzlw"),
        padded_bytes=0,
    )

    assert body == decode(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml"
        "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT"
        "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@given(st.binary(max_size=MAX_PLAINTEXT_BYTES) | st.just(b"x" * MAX_PLAINTEXT_BYTES))
def test_another_implementation_decrypts_it_and_services_take_it(plaintext: bytes) -> None:
    browser_key = ec.generate_private_key(ec.SECP256R1())
    auth_secret = os.urandom(16)
    body = encrypt(plaintext, browser_key.public_key(), auth_secret)
    assert len(body) <= MAX_BODY_BYTES
    decrypted = http_ece.decrypt(
        body, private_key=browser_key, auth_secret=auth_secret, version="aes128gcm"
    )
    assert decrypted == plaintext


def test_one_byte_too_many_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(ValueError, match="longer than one push message"):
        encrypt(b"x" * (MAX_PLAINTEXT_BYTES + 1), key, os.urandom(16))


def test_a_token_is_used_until_it_nears_its_end_and_is_one_services() -> None:
    clock = [1_700_000_000.0]
    vapid = VapidKey(ec.generate_private_key(ec.SECP256R1()), "mailto:a@b.cn", lambda: clock[0])
    first = vapid.get_authorization("https://push.example.org")

    clock[0] += 10 * 3600
    assert vapid.get_authorization("https://push.example.org") == first
    assert vapid.get_authorization("https://other.example.org") != first
    clock[0] += 1.5 * 3600
    assert vapid.get_authorization("https://push.example.org") != first
