"""Single examples of datasets: what one looks like, and which ones two datasets share."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Row

from checkpoints.store import Draft
from models.spec import SpecError
from service.db.connection import reading
from service.jobs.sandbox import Limits, SandboxError, SandboxUnavailable
from service.operations import datasets
from service.operations.errors import Conflict, Forbidden, NotFound, Unavailable
from service.operations.services import Caller, Services


def show(
    services: Services, ref: str, index: int, *, shown_as: str | None, caller: Caller
) -> dict[str, Any] | bytes:
    """One example before any transform: JSON values, or the bytes of a PNG.

    Args:
        shown_as: ``png`` or ``json``; None is png for images and json for everything else.

    Raises:
        Forbidden: the dataset is sealed, and the caller no admin.
        NotFound: no such dataset or example.
        SpecError: it has no picture, or is too large to be written out.
    """
    with reading(services.database) as db:
        row = datasets.resolve(db, ref)
    _check_seal(row, caller)
    if shown_as is None:
        shown_as = "png" if row.details["input"]["kind"] == "image" else "json"
    examples = row.details["examples"]
    if not 0 <= index < examples:
        raise NotFound(
            f"{row.name}@{row.version} has {examples} examples: the index must be 0 to "
            f"{examples - 1}"
        )
    with services.store.draft() as picture:
        request = {"index": index, "format": shown_as}
        answer = _ask(services, "example", request, [row], picture)
        if "error" in answer:
            raise SpecError(answer["error"], pointer="/format")
        if "example" in answer:
            example: dict[str, Any] = answer["example"]
            return {"dataset": f"{row.name}@{row.version}", **example}
        return os.pread(picture.fileno(), picture.size_bytes, 0)


def overlap(services: Services, ref: str, other: str, *, caller: Caller) -> dict[str, Any]:
    """How many examples of one dataset another has too; the indices unless either is sealed.

    Raises:
        NotFound: there is no such dataset.
        SpecError: likewise the other.
        Conflict: no example of the one can equal one of the other.
    """
    with reading(services.database) as db:
        rows = [datasets.resolve(db, ref)]
        try:
            rows.append(datasets.resolve(db, other))
        except NotFound as error:
            raise SpecError(error.detail, pointer="/with") from None
    if not _comparable(rows):
        raise Conflict(
            f"no example can be in both: {rows[0].name}@{rows[0].version} holds {_kind(rows[0])}, "
            f"{rows[1].name}@{rows[1].version} {_kind(rows[1])}"
        )
    answer = _ask(services, "overlap", {}, rows, None)
    if caller.role != "admin" and any(row.spec["sealed"] for row in rows):
        answer["indices"] = None
    names = [f"{row.name}@{row.version}" for row in rows]
    return {"dataset": names[0], "with": names[1], **answer}


def shared(services: Services, rows: list[Row[Any]]) -> dict[str, Any]:
    """How many examples of the first of two datasets the second has too.

    Returns:
        ``examples``, ``of`` (how many the first has) and ``fraction``.
    """
    if not _comparable(rows):
        return {"examples": 0, "of": rows[0].details["examples"], "fraction": 0.0}
    answer = _ask(services, "overlap", {}, rows, None)
    return {name: answer[name] for name in ("examples", "of", "fraction")}


def _comparable(rows: list[Row[Any]]) -> bool:
    """Whether an example of the one dataset can equal one of the other."""
    one, another = (_kind(row) for row in rows)
    pictures = all(kind.startswith(("arrays", "images")) for kind in (one, another))
    return one == another or (pictures and "images of any size" in (one, another))


def _kind(row: Row[Any]) -> str:
    """What examples a dataset holds; examples of two kinds are never equal."""
    columns = row.details.get("columns")
    if columns is not None:
        names = sorted(one["name"] for one in columns)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return f"rows of {', '.join(names[:10])}{more}"
    given = row.details["input"]
    if given["kind"] == "tokens":
        return "sequences of token ids"
    if None in given["shape"]:
        return "images of any size"
    return f"arrays of shape {given['shape']} {given['dtype']}"


def _check_seal(row: Row[Any], caller: Caller) -> None:
    if row.spec["sealed"] and caller.role != "admin":
        raise Forbidden(
            f"{row.name}@{row.version} is sealed: single examples of it are for admins only"
        )


def _ask(
    services: Services,
    function: str,
    request: dict[str, Any],
    rows: list[Row[Any]],
    output: Draft | None,
) -> dict[str, Any]:
    """Have a limited child look into datasets; it sees no others, and neither does this process."""
    settings = services.settings
    limits = Limits(
        address_space_bytes=settings.reader_memory_bytes + sum(row.size_bytes for row in rows),
        cpu_s=int(settings.reader_s) + 1,
        file_bytes=2**28,
        wall_s=settings.reader_s,
    )
    descriptors = [
        os.open(services.store.path(row.digest), os.O_RDONLY | os.O_CLOEXEC) for row in rows
    ]
    try:
        given = [*descriptors, *([] if output is None else [output.fileno()])]
        return services.reader.run(f"models.datasets.showing:{function}", request, given, limits)
    except SandboxUnavailable:
        raise Unavailable("datasets cannot be read at this moment") from None
    except SandboxError as error:
        raise Unavailable(f"the dataset could not be read: {error.detail}") from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
