"""Constants of transforms, such as a mean, taken from the training dataset that a request names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Connection

from models import chains
from models.spec import Component, SpecError
from service.operations.errors import NotFound


def columns(db: Connection, components: Sequence[Component]) -> dict[str, list[str]]:
    """The columns, in order, of the datasets that components take constants from, by their names.

    Those that do not exist are left out; `filled` says so.
    """
    from service.operations import datasets  # which takes constants itself

    found = {}
    for ref in chains.references(components).values():
        with suppress(NotFound):
            row = datasets.resolve(db, ref)
            names = [one["name"] for one in row.details.get("columns") or ()]
            found[f"{row.name}@{row.version}"] = names
    return found


def filled(db: Connection, components: Sequence[Component], *, pointer: str) -> list[Component]:
    """The components with numbers and categories in place of every dataset that they name.

    Raises:
        SpecError: a dataset that is named does not exist, is not for training, is sealed or no
            table, or lacks a column; points below ``pointer`` at the component.
    """
    from service.operations import datasets  # which takes constants itself

    found = list(components)
    for index, ref in chains.references(components).items():
        at = f"{pointer}/{index}"
        try:
            row = datasets.resolve(db, ref)
        except NotFound as error:
            raise SpecError(error.detail, pointer=f"{at}/dataset") from None
        name = f"{row.name}@{row.version}"
        if row.spec["split"] != "train":
            raise SpecError(
                f"constants come from a training dataset; {name} is for {row.spec['split']}",
                pointer=f"{at}/dataset",
            )
        if row.spec["sealed"]:
            raise SpecError(
                f"{name} is sealed, and constants would show what is in it: name another one",
                pointer=f"{at}/dataset",
            )
        columns = row.details.get("columns")
        if columns is None:
            raise SpecError(f"{name} is no table and has no columns", pointer=f"{at}/dataset")
        try:
            (found[index],) = chains.filled([components[index]], columns, pointer="")
        except SpecError as error:
            raise SpecError(error.detail, pointer=at + error.pointer.removeprefix("/0")) from None
    return found
