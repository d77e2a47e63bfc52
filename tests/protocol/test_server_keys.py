"""Published keys: ours are what others can check, and others' are believed for what is signed."""

from typing import Any

import pytest

from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.server_keys import (
    LONGEST_VALIDITY_MS,
    PUBLISHED_FOR_MS,
    InvalidServerKeys,
    OldKey,
    OwnKeys,
    check_server_keys,
    usable_keys,
)
from yizhan_server.protocol.signing import InvalidKey, SigningKey, sign_json

NOW_MS = 1_800_000_000_000
SERVER = ServerName("a.test")
KEY = SigningKey("ed25519:new", b"new".ljust(32, b"."))
RETIRED = SigningKey("ed25519:old", b"old".ljust(32, b"."))
OLD = OldKey(RETIRED.verify_key, NOW_MS - 1000)
OWN = OwnKeys(SERVER, KEY, [OLD])


def answer(**changes: Any) -> dict[str, Any]:
    """Return what SERVER publishes, with some of it changed, signed by KEY."""
    published = OWN.publish(NOW_MS) | changes
    published.pop("signatures")
    return sign_json(published, SERVER, KEY)


def test_what_is_published_says_which_key_is_in_use_and_which_was() -> None:
    keys, valid_until_ms = check_server_keys(OWN.publish(NOW_MS), SERVER, NOW_MS)
    assert valid_until_ms == NOW_MS + PUBLISHED_FOR_MS
    assert {key_id: (each.key, each.is_old) for key_id, each in keys.items()} == {
        "ed25519:new": (KEY.verify_key, False),
        "ed25519:old": (RETIRED.verify_key, True),
    }
    assert keys["ed25519:old"].valid_until_ms == OLD.expired_ms
    assert keys["ed25519:new"].signs_requests_at(valid_until_ms)
    assert not keys["ed25519:new"].signs_requests_at(valid_until_ms + 1)
    assert not keys["ed25519:old"].signs_requests_at(OLD.expired_ms - 1)


def test_a_key_counts_for_events_until_it_has_expired_where_the_room_asks_for_it() -> None:
    keys, until_ms = check_server_keys(OWN.publish(NOW_MS), SERVER, NOW_MS)
    ids = ["ed25519:new", "ed25519:old", "ed25519:unknown"]
    assert set(usable_keys(keys, ids, NOW_MS)) == {"ed25519:new"}
    assert set(usable_keys(keys, ids, OLD.expired_ms)) == {"ed25519:new", "ed25519:old"}
    assert usable_keys(keys, ids, until_ms + 1) == {}
    assert set(usable_keys(keys, ids, None)) == {"ed25519:new", "ed25519:old"}


def test_no_key_is_believed_for_more_than_a_week() -> None:
    keys, until_ms = check_server_keys(answer(valid_until_ts=2**53 - 1), SERVER, NOW_MS)
    assert until_ms == NOW_MS + LONGEST_VALIDITY_MS
    assert keys["ed25519:new"].valid_until_ms == until_ms


def test_an_old_key_is_not_believed_for_what_is_yet_to_come() -> None:
    retired = {"key": RETIRED.verify_key.to_base64(), "expired_ts": NOW_MS + 1000}
    keys, _ = check_server_keys(answer(old_verify_keys={"ed25519:old": retired}), SERVER, NOW_MS)
    assert keys["ed25519:old"].valid_until_ms == NOW_MS


def test_a_key_in_both_files_is_in_use() -> None:
    # The rotation writes the old key's line first; a crash then leaves both.
    own = OwnKeys(SERVER, RETIRED, [OLD])
    assert own.publish(NOW_MS)["old_verify_keys"] == {}
    assert not own.as_known(NOW_MS)["ed25519:old"].is_old


@pytest.mark.parametrize(
    "changes",
    [
        {"server_name": "b.test"},
        {"valid_until_ts": None},
        {"valid_until_ts": -1},
        {"valid_until_ts": True},
        {"valid_until_ts": "1"},
        {"verify_keys": {}},
        {"verify_keys": []},
        {"verify_keys": {"ed25519:new": {}}},
        {"verify_keys": {"ed25519:new": {"key": "short"}}},
        {"verify_keys": {f"ed25519:{n}": {"key": "A" * 43} for n in range(51)}},
        {"verify_keys": {"ed25519:other": {"key": KEY.verify_key.to_base64()}}},
        {"verify_keys": {"ed25519:new": {"key": RETIRED.verify_key.to_base64()}}},
        {"old_verify_keys": {"ed25519:old": {"key": RETIRED.verify_key.to_base64()}}},
        {"old_verify_keys": []},
        {"more": 1.5},
    ],
    ids=str,
)
def test_an_answer_that_is_not_signed_by_its_own_keys_or_malformed_is_refused(
    changes: dict[str, Any],
) -> None:
    check_server_keys(answer(), SERVER, NOW_MS)
    with pytest.raises(InvalidServerKeys):
        check_server_keys(answer(**changes), SERVER, NOW_MS)


@pytest.mark.parametrize("what", [None, [], "x", {}, {"server_name": "a.test"}])
def test_what_is_no_answer_at_all_is_refused(what: object) -> None:
    with pytest.raises(InvalidServerKeys):
        check_server_keys(what, SERVER, NOW_MS)


def test_an_answer_that_only_an_old_key_signed_is_refused() -> None:
    stripped = {k: v for k, v in OWN.publish(NOW_MS).items() if k != "signatures"}
    with pytest.raises(InvalidServerKeys):
        check_server_keys(sign_json(stripped, SERVER, RETIRED), SERVER, NOW_MS)


def test_an_answer_altered_after_signing_is_refused() -> None:
    with pytest.raises(InvalidServerKeys):
        check_server_keys(OWN.publish(NOW_MS) | {"valid_until_ts": NOW_MS}, SERVER, NOW_MS)


def test_keys_of_other_algorithms_are_left_out() -> None:
    keys = answer()["verify_keys"] | {"rsa:1": {"key": "x"}, "ed25519:": 7}
    found, _ = check_server_keys(answer(verify_keys=keys), SERVER, NOW_MS)
    assert set(found) == {"ed25519:new", "ed25519:old"}


def test_the_line_of_an_old_key_is_read_as_it_was_written() -> None:
    assert OldKey.parse(OLD.serialize()) == OLD
    for line in ("", "ed25519:a b", f"a {OLD.key.to_base64()} 1", f"{OLD.serialize()} more"):
        with pytest.raises(InvalidKey):
            OldKey.parse(line)
