"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}} with an HTTP status."""

from __future__ import annotations

from typing import Any

# The type that OpenAI's clients know each status by.
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """A request that is refused or fails.

    Args:
        status: of the HTTP response, a key of TYPES.
        message: a sentence for the person who reads the client's log.
        param: the field of the body that is wrong, e.g. "messages".
        code: a word for programs, e.g. "context_length_exceeded".
        headers: further ones of the response, e.g. Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON object of the response, or of an event in a stream that has begun."""
        kind = TYPES[self.status]
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400: the body is wrong and would be wrong again."""
    return ApiError(400, message, param=param, code=code)
