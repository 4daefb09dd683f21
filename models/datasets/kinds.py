"""What a file holds, and what a spec may say of it: known before anything of it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from models import chains
from models.spec import TASKS, DatasetSpec, SpecError
from models.transforms.tables import TakesConstants


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of content.

    Attributes:
        plural: what many of them are called in a sentence.
        holds: what a file of it holds, with where the labels are.
        takes: the fields of a `DatasetSpec` that not every kind takes, and this one does.
        tasks: what its labels can be for.
    """

    plural: str
    holds: str
    takes: tuple[str, ...]
    tasks: tuple[str, ...] = TASKS


KINDS = {
    "array": Kind(
        plural="arrays",
        holds="arrays: x are the examples, y the labels",
        takes=("groups",),
    ),
    "table": Kind(
        plural="tables",
        holds="a table: one of its columns are the labels",
        takes=("label", "features", "groups"),
    ),
    "image": Kind(
        plural="images",
        holds="images: the label of each is the name of its folder",
        takes=("mode",),
        tasks=("multiclass", "binary"),
    ),
}


def check(spec: DatasetSpec, name: str) -> None:
    """Refuse a spec that says what no file of this kind can fulfil.

    Args:
        name: one of `KINDS`.

    Raises:
        SpecError: a field, the task or a transform belongs to another kind.
    """
    kind = KINDS[name]
    for field in dict.fromkeys(field for one in KINDS.values() for field in one.takes):
        if getattr(spec, field) is not None and field not in kind.takes:
            takers = [one.plural for one in KINDS.values() if field in one.takes]
            raise _belongs(field, takers, kind, f"/{field}")
    if spec.task not in kind.tasks:
        takers = [one.plural for one in KINDS.values() if spec.task in one.tasks]
        raise _belongs(f"task {spec.task!r}", takers, kind, "/task")
    for index, one in enumerate(chains.transforms(spec.transforms, pointer="/transforms")):
        of_tables = isinstance(one, TakesConstants)
        if one.on_host and of_tables != (name == "table"):
            takers = ["tables" if of_tables else "images"]
            component = spec.transforms[index].name
            raise _belongs(f"transform {component}", takers, kind, f"/transforms/{index}/name")


def _belongs(what: str, takers: list[str], kind: Kind, pointer: str) -> SpecError:
    return SpecError(
        f"{what} belongs to {' and '.join(takers)}; this file holds {kind.holds}", pointer=pointer
    )
