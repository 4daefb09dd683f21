"""Sweeps: trainings over a grid of values, made together and compared side by side."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select

from models.optimization.stopping import lower_is_better
from models.spec import SpecError, TrainingSpec
from service.db.connection import reading, writing
from service.db.tables import job_events, jobs, sweep_trainings, sweeps
from service.jobs.lifecycle import State, uuid7
from service.operations import trainings
from service.operations.errors import NotFound
from service.operations.jobs import timestamp
from service.operations.listing import Page, select_page
from service.operations.services import Caller, Services

MOST_TRAININGS = 256

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")  # one way to write each, so that no field is named twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination of a grid's values.

    Attributes:
        values: by JSON pointer.
        body: the base with these values in it, as a request for a training.
    """

    values: dict[str, Any]
    body: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{pointer} = {json.dumps(one)}" for pointer, one in self.values.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A training of a sweep that is to be queued, and the terms of its job."""

    point: Point
    spec: TrainingSpec
    labels: dict[str, str]
    timeout_s: float | None


def points(
    base: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], defaults: Mapping[str, Any]
) -> list[Point]:
    """Every combination of a grid's values, the last pointer's values changing first.

    Args:
        base: a request for a training.
        grid: values by JSON pointer (RFC 6901) into it.
        defaults: objects by the field that a pointer may lead into although the base lacks it.

    Raises:
        SpecError: a pointer that leads nowhere, values that stand twice, or too many combinations.
    """
    paths = {pointer: _path(pointer) for pointer in grid}
    for (one, path), (other, longer) in itertools.permutations(paths.items(), 2):
        if longer[: len(path)] == path:
            raise SpecError(f"{other} lies inside {one}: name each field once", pointer=_at(other))
    for pointer, values in grid.items():
        texts = [json.dumps(one, sort_keys=True) for one in values]
        if len(set(texts)) < len(texts):
            raise SpecError("a value stands twice", pointer=_at(pointer))
    total = math.prod(map(len, grid.values()))
    if total > MOST_TRAININGS:
        raise SpecError(
            f"the grid has {total} combinations; at most {MOST_TRAININGS} are taken",
            pointer="/grid",
        )
    filled = {
        field: value
        for field, value in defaults.items()
        if field not in base and any(path[0] == field and path[1:] for path in paths.values())
    }
    found = []
    for chosen in itertools.product(*grid.values()):
        body = copy.deepcopy({**base, **filled})
        for (pointer, path), value in zip(paths.items(), chosen, strict=True):
            _put(body, path, value, pointer)
        found.append(Point(values=dict(zip(grid, chosen, strict=True)), body=body))
    return found


def _at(pointer: str) -> str:
    """Where a pointer stands among the keys of the grid."""
    return "/grid/" + pointer.replace("~", "~0").replace("/", "~1")


def _path(pointer: str) -> list[str]:
    if not re.fullmatch(r"(/([^~/]|~[01])*)+", pointer):
        raise SpecError(
            f"{pointer[:100]!r} is no JSON pointer: write /hyperparameters/dropout or the like",
            pointer=_at(pointer),
        )
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def _put(body: dict[str, Any], path: Sequence[str], value: Any, pointer: str) -> None:
    """Set one field; an object that is not there is made."""
    at: Any = body
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(at, dict):
            if last:
                at[part] = value
                return
            at = at.setdefault(part, {})
        elif isinstance(at, list) and _INDEX.fullmatch(part) and int(part) < len(at):
            if last:
                at[int(part)] = value
                return
            at = at[int(part)]
        else:
            break
    raise SpecError(
        f"{pointer[:200]} leads nowhere in the base: there is no object or list that has it",
        pointer=_at(pointer),
    )


def create(
    services: Services,
    *,
    base: Mapping[str, Any],
    grid: Mapping[str, Any],
    members: Sequence[Member],
    labels: dict[str, str],
    caller: Caller,
) -> str:
    """Queue all trainings of a sweep, or none.

    Returns:
        The sweep's id.

    Raises:
        SpecError: one of them cannot be run as written; names the point and the field.
    """
    overlaps: trainings.Overlaps = {}
    prepared = []
    for member in members:
        try:
            prepared.append(trainings.prepare(services, member.spec, overlaps))
        except SpecError as error:
            raise SpecError(
                f"{error.detail} (at {member.point})", pointer=f"/base{error.pointer}"
            ) from None
    now = services.clock()
    sweep_id = uuid7(now)
    with writing(services.database) as db:
        db.execute(
            insert(sweeps).values(
                id=sweep_id,
                base=base,
                grid=grid,
                labels=labels,
                created_at=now,
                created_by=caller.name,
            )
        )
        for position, (member, one) in enumerate(zip(members, prepared, strict=True)):
            job = trainings.submit(
                services,
                db,
                one,
                labels=member.labels,
                timeout_s=member.timeout_s,
                created_by=caller.name,
            )
            db.execute(
                insert(sweep_trainings).values(
                    sweep_id=sweep_id, position=position, job_id=job.id, point=member.point.values
                )
            )
    services.doorbell.ring("work")
    return sweep_id


def search(services: Services, page: Page) -> tuple[list[dict[str, Any]], str | None]:
    """One page of sweeps, each with how many of its trainings are in which state."""
    keys = {"created_at": sweeps.c.created_at}
    with reading(services.database) as db:
        rows, following = select_page(db, select(sweeps), page, identity=sweeps.c.id, keys=keys)
        states: dict[str, Counter[str]] = {row.id: Counter() for row in rows}
        query = select(sweep_trainings.c.sweep_id, jobs.c.state, func.count()).join_from(
            sweep_trainings, jobs, sweep_trainings.c.job_id == jobs.c.id
        )
        query = query.where(sweep_trainings.c.sweep_id.in_(states))
        for sweep_id, state, count in db.execute(
            query.group_by(sweep_trainings.c.sweep_id, jobs.c.state)
        ):
            states[sweep_id][state] = count
    return [_head(row, states[row.id]) for row in rows], following


def get(services: Services, sweep_id: str) -> dict[str, Any]:
    """One sweep with its trainings side by side; NotFound if there is none."""
    with reading(services.database) as db:
        row = db.execute(select(sweeps).where(sweeps.c.id == sweep_id)).first()
        if row is None:
            raise NotFound(f"there is no sweep with the id {sweep_id[:64]!r}")
        members = _members(db, sweep_id)
    # values of two metrics, or of one on two datasets, say nothing of which is better
    judged = {(one["metric"], one["validation_dataset"]) for one in members}
    metric = judged.pop()[0] if len(judged) == 1 else None
    return {
        **_head(row, Counter(one["state"] for one in members)),
        "base": row.base,
        "metric": metric,
        "trainings": members,
        "best": _best(members, metric),
    }


def _head(row: Any, states: Counter[str]) -> dict[str, Any]:
    return {
        "id": row.id,
        "created_at": timestamp(row.created_at),
        "created_by": row.created_by,
        "labels": row.labels,
        "grid": row.grid,
        "states": {str(state): states[state] for state in State},
        "links": {"self": f"/v1/sweeps/{row.id}"},
    }


def _members(db: Connection, sweep_id: str) -> list[dict[str, Any]]:
    mine = sweep_trainings.c.sweep_id == sweep_id
    joined = sweep_trainings.join(jobs, sweep_trainings.c.job_id == jobs.c.id)
    columns = (
        sweep_trainings.c.job_id,
        sweep_trainings.c.point,
        jobs.c.state,
        jobs.c.reason,
        jobs.c.payload["monitor"].as_string().label("metric"),
        jobs.c.payload["validation_dataset"].as_string().label("validation_dataset"),
        jobs.c.result["checkpoint"].as_string().label("checkpoint"),
    )
    query = select(*columns).select_from(joined).where(mine)
    rows = db.execute(query.order_by(sweep_trainings.c.position)).all()
    events = (
        select(job_events.c.job_id, job_events.c.data)
        .join_from(job_events, sweep_trainings, job_events.c.job_id == sweep_trainings.c.job_id)
        .where(mine, job_events.c.type == "epoch")
    )
    epochs: dict[str, list[dict[str, Any]]] = {row.job_id: [] for row in rows}
    for job_id, data in db.execute(events.order_by(job_events.c.job_id, job_events.c.seq)):
        epochs[job_id].append(data)
    return [
        {
            "id": row.job_id,
            "point": row.point,
            "state": row.state,
            "reason": row.reason,
            "metric": row.metric,
            "validation_dataset": row.validation_dataset,
            "epochs": len(epochs[row.job_id]),
            "best": _best_epoch(epochs[row.job_id], row.metric),
            "checkpoint": row.checkpoint,
            "curve": [one[row.metric] for one in epochs[row.job_id]],
            "links": {"self": f"/v1/trainings/{row.job_id}"},
        }
        for row in rows
    ]


def _best_epoch(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """The first of the epochs with the best value."""
    if not rows:
        return None
    choose = min if lower_is_better(metric) else max
    value = choose(one[metric] for one in rows)
    return {
        "epoch": next(one["epoch"] for one in rows if one[metric] == value),
        "value": value,
    }


def _best(members: Sequence[Mapping[str, Any]], metric: str | None) -> dict[str, Any] | None:
    """The first of the trainings with the best value, if all are judged by one metric."""
    found = [one for one in members if one["best"] is not None]
    if metric is None or not found:
        return None
    choose = min if lower_is_better(metric) else max
    best = choose(found, key=lambda one: one["best"]["value"])
    return {
        "training": best["id"],
        "point": best["point"],
        "epoch": best["best"]["epoch"],
        "value": best["best"]["value"],
        "checkpoint": best["checkpoint"],
    }


def markdown(body: Mapping[str, Any]) -> str:
    """A sweep as tables: its trainings, the best in bold, and their curves side by side."""
    members, pointers = body["trainings"], list(body["grid"])
    best = body["best"] and body["best"]["training"]
    metric = body["metric"] or "monitored metric"
    rows = []
    for number, one in enumerate(members, 1):
        value = one["best"] and f"{one['best']['value']:.4f}"
        cells = [
            str(number),
            *(json.dumps(one["point"][pointer]) for pointer in pointers),
            one["state"],
            str(one["epochs"]),
            str(one["best"]["epoch"]) if one["best"] else "",
            value or "",
            f"`{one['checkpoint'][:12]}`" if one["checkpoint"] else "",
        ]
        rows.append([f"**{cell}**" if cell and one["id"] == best else cell for cell in cells])
    header = ["", *pointers, "state", "epochs", "best epoch", f"best {metric}", "checkpoint"]
    longest = max((len(one["curve"]) for one in members), default=0)
    curves = [
        [
            str(epoch + 1),
            *(f"{one['curve'][epoch]:.4f}" if epoch < len(one["curve"]) else "" for one in members),
        ]
        for epoch in range(longest)
    ]
    parts = [f"Sweep `{body['id']}`", _table(header, rows)]
    if curves:
        numbers = [str(number) for number in range(1, len(members) + 1)]
        parts += [f"{metric} of each epoch, by training", _table(["epoch", *numbers], curves)]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
