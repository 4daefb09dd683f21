"""What can be wrong with a checkpoint or with the place where checkpoints are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_DETAIL = 2000

# The pointer to the uploaded file itself, whatever the request calls that field.
FILE = "/file"


class CheckpointError(ValueError):
    """An uploaded file cannot become a checkpoint.

    Args:
        detail: what is wrong and what would be right, for the person who sent it. Cut to
            `MAX_DETAIL` characters, because names in it come from the file.
        kind: ``unsupported`` (no format that is read), ``too_large``, or ``invalid`` (all else).
        pointer: JSON pointer of the one field of the upload at fault.
        errors: pointer and detail of each complaint, where there are several.
    """

    def __init__(
        self,
        detail: str,
        *,
        kind: str = "invalid",
        pointer: str = FILE,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        detail = detail if len(detail) <= MAX_DETAIL else detail[: MAX_DETAIL - 3] + "..."
        super().__init__(detail)
        self.detail = detail
        self.kind = kind
        self.errors = tuple(errors) or ((pointer, detail),)

    def with_file(self, field: str) -> CheckpointError:
        """The same, for a request that calls the uploaded file ``field``."""
        errors = [
            (f"/{field}" if pointer == FILE else pointer, text) for pointer, text in self.errors
        ]
        return CheckpointError(self.detail, kind=self.kind, errors=errors)

    def to_json(self) -> dict[str, Any]:
        """The form in which a reader's process hands it over."""
        complaints = [{"pointer": pointer, "detail": detail} for pointer, detail in self.errors]
        return {"kind": self.kind, "detail": self.detail, "errors": complaints}


class StoreError(Exception):
    """The store cannot do what was asked; the message says why."""


class MissingBlob(StoreError):
    """No blob has this digest."""


class DamagedBlob(StoreError):
    """The bytes of a blob are not those of its digest."""


def quoted(name: str) -> str:
    """A name out of a file, safe to show: printable, on one line, at most 100 characters."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


def listed(items: Sequence[str], limit: int = 20) -> str:
    """The first ones, and how many more there are."""
    more = f", and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def counted(number: int, noun: str) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
