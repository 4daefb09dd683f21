"""Keep what trainings have stored, where checkpoints come from, and sweeps."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("saved", sa.JSON(none_as_null=True)))
    op.create_table(
        "lineages",
        sa.Column("digest", sa.Text, sa.ForeignKey("checkpoints.digest", ondelete="CASCADE")),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE")),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("digest", "job_id", name="pk_lineages"),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("base", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("grid", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_index("ix_sweeps_created", "sweeps", ["created_at", "id"])
    op.create_table(
        "sweep_trainings",
        sa.Column("sweep_id", sa.Text, sa.ForeignKey("sweeps.id", ondelete="CASCADE")),
        sa.Column("position", sa.Integer, autoincrement=False),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("point", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("sweep_id", "position", name="pk_sweep_trainings"),
    )
