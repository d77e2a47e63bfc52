"""Errors: the answer that each one makes."""

import pytest

from yizhan_server.protocol.errors import (
    AuthRuleRejection,
    BadJson,
    Forbidden,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    MissingParam,
    MissingToken,
    NotFound,
    NotJson,
    TooLarge,
    UnknownToken,
    Unrecognized,
    UnsupportedRoomVersion,
)


@pytest.mark.parametrize(
    ("error", "status", "errcode"),
    [
        (BadJson("x"), 400, "M_BAD_JSON"),
        (NotJson(), 400, "M_NOT_JSON"),
        (InvalidParam("x"), 400, "M_INVALID_PARAM"),
        (MissingParam("x"), 400, "M_MISSING_PARAM"),
        (UnsupportedRoomVersion("x"), 400, "M_UNSUPPORTED_ROOM_VERSION"),
        (MissingToken(), 401, "M_MISSING_TOKEN"),
        (Forbidden(), 403, "M_FORBIDDEN"),
        (NotFound(), 404, "M_NOT_FOUND"),
        (Unrecognized(), 404, "M_UNRECOGNIZED"),
        (Unrecognized(status=405), 405, "M_UNRECOGNIZED"),
        (TooLarge("x"), 413, "M_TOO_LARGE"),
    ],
)
def test_each_error_has_its_status_and_code(error: MatrixError, status: int, errcode: str) -> None:
    assert error.status == status
    assert error.body() == {"errcode": errcode, "error": error.message}
    assert str(error) == error.message


def test_further_fields_are_in_the_body_and_never_hide_the_code() -> None:
    error = MatrixError(400, "M_UNKNOWN", "Odd.", errors=["a"], errcode_hint="b")
    assert error.body() == {
        "errcode": "M_UNKNOWN",
        "error": "Odd.",
        "errors": ["a"],
        "errcode_hint": "b",
    }


def test_a_limit_says_when_to_come_back() -> None:
    error = LimitExceeded(1500)
    assert (error.status, error.retry_after_ms) == (429, 1500)
    assert error.body()["retry_after_ms"] == 1500


def test_a_token_can_be_lost_softly() -> None:
    assert UnknownToken().body()["soft_logout"] is False
    assert UnknownToken(soft_logout=True).body()["soft_logout"] is True


def test_a_rejection_names_its_rule() -> None:
    rejection = AuthRuleRejection("member.join.banned", "@x:y is banned")
    assert (rejection.rule, rejection.reason) == ("member.join.banned", "@x:y is banned")
    assert str(rejection) == "member.join.banned: @x:y is banned"
