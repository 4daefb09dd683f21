"""Tables whose one feature is a column of sequences of token ids, as datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from models import chains
from models.datasets import decoded
from models.datasets.intake import Found, Intake, check_size
from models.datasets.sequences import Run, Sequences
from models.datasets.tablecolumns import Roles
from models.datasets.tablerows import Rows
from models.datasets.tables import Table
from models.datasets.tabletargets import targets_of, write_targets
from models.tensorfile import Placer


def take(table: Table, roles: Roles, runs: Callable[[], Iterator[Run]], intake: Intake) -> Found:
    """Make a dataset of such a table; needs memory for batches, runs and hashes only.

    Args:
        table: its other columns are read as those of any table are.
        roles: with the column of sequences as the only feature.
        runs: starts reading that column anew.

    Raises:
        SpecError: whatever is wrong with the file or the spec.
    """
    (column,) = roles.features
    sequences = Sequences(runs, lambda row: roles.place(row, column))
    chains.output_of(intake.spec.transforms, sequences.example, pointer="/transforms")
    beside = replace(roles, features=())
    rows = Rows(intake, beside, frozenset())
    for batch in table.batches(beside, {}):
        rows.add(batch)
    rows.finish()

    targets = targets_of(rows, intake.spec)
    planned = decoded.plan(
        x=sequences.stored,
        y=targets.shape(rows.count),
        classes=targets.classes,
        groups=targets.group_values,
        vocabulary=sequences.vocabulary,
    )
    check_size(planned.size_bytes, intake)
    out = Placer(intake.output, planned)
    hashes = sequences.write(out)
    counts = write_targets(out, rows, targets)
    return Found(
        examples=rows.count,
        classes=targets.classes,
        positive_class=targets.positive_class,
        class_counts=dict(zip(targets.classes, counts.tolist(), strict=True)),
        groups=targets.group_counts,
        kind="tokens",
        example=sequences.example,
        duplicates=decoded.duplicates(hashes),
        transforms=chains.resolved(intake.spec.transforms, pointer="/transforms"),
    )
