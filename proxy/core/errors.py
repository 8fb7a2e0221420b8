"""The documented errors, exactly: status and body of every refusal that a customer can see.

What belongs here: the short list of client-safe errors. Nothing internal (addresses, traces, keys) may enter a message.
What more there is to say about an error goes into headers, never into these bodies.
"""

from typing import Final

import msgspec


class _Body(msgspec.Struct, frozen=True, omit_defaults=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ApiError(Exception):
    """An answer other than success: HTTP status and documented body.

    Args:
        status: HTTP status.
        message: for the customer, in English.
        type: documented error type.
        param: offending parameter, left out of the body when None.
        code: documented code, left out of the body when None.
    """

    def __init__(self, status: int, message: str, type: str, param: str | None = None, code: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.status = status
        self.type = type
        self.param = param
        self.code = code
        self.body: Final[bytes] = msgspec.json.encode({"error": _Body(message, type, param, code)})


def invalid_parameter(param: str, problem: str) -> ApiError:
    """Return the 400 for a documented parameter with a wrong value; ``problem`` follows "Invalid parameter 'x':"."""
    return ApiError(400, f"Invalid parameter '{param}': {problem}", "invalid_request_error", param)


def invalid_request(message: str, param: str | None = None) -> ApiError:
    """Return a 400 about the request as a whole."""
    return ApiError(400, message, "invalid_request_error", param)


def unauthorized() -> ApiError:
    """Return the 401, the same whatever is wrong with the key."""
    return ApiError(401, "Invalid API key provided", "authentication_error")


def model_not_found(model: str) -> ApiError:
    """Return the 404 for a model that is not in the catalogue."""
    return ApiError(404, f"Model '{model}' does not exist", "invalid_request_error", "model", "model_not_found")


def route_not_found() -> ApiError:
    """Return the 404 for what is not in the endpoint table."""
    return ApiError(404, "Unknown request URL", "invalid_request_error", None, "unknown_url")


def method_not_allowed() -> ApiError:
    """Return the 405 for a documented route with another method."""
    return ApiError(405, "Method not allowed for this URL", "invalid_request_error", None, "method_not_allowed")


def body_too_large(bytes_max: int) -> ApiError:
    """Return the 413."""
    return ApiError(413, f"Request body is larger than {bytes_max} bytes", "invalid_request_error")


def request_timeout() -> ApiError:
    """Return the 408 for a body that does not arrive."""
    return ApiError(408, "The request body did not arrive in time", "invalid_request_error")


def rate_limited() -> ApiError:
    """Return the documented 429."""
    return ApiError(
        429,
        "Rate limit exceeded. Please upgrade your tier or try again later.",
        "rate_limit_error",
        None,
        "rate_limit_exceeded",
    )


def internal() -> ApiError:
    """Return the documented 500."""
    return ApiError(500, "Internal server error", "server_error")


def unavailable() -> ApiError:
    """Return the documented 503."""
    return ApiError(503, "Service temporarily unavailable", "service_unavailable_error")
