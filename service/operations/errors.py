"""What can go wrong in a use case; the API maps each to a problem in one table."""

from __future__ import annotations


class OperationError(Exception):
    """A refusal whose ``detail`` is written for the person who asked.

    Args:
        detail: what was wrong and what would be right.
        pointer: JSON pointer of the field at fault, empty for none.
    """

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class NotFound(OperationError):
    """The resource that the address names does not exist."""


class Conflict(OperationError):
    """The resource's state does not allow it."""


class Unauthorized(OperationError):
    """No token, or one that is not known."""


class Forbidden(OperationError):
    """The caller's role, address or origin does not allow it."""


class Unavailable(OperationError):
    """Something that the request needs is not there now; later it may be."""


class KeyReused(OperationError):
    """An ``Idempotency-Key`` came back with another request."""


class KeyInUse(OperationError):
    """The first request with an ``Idempotency-Key`` is still being handled."""
