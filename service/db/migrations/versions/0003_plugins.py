"""Say what jobs need of a worker, and what workers' plug-ins add to the catalog."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("workers", sa.Column("additions", sa.JSON(none_as_null=True)))
    op.create_table(
        "job_needs",
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE")),
        sa.Column("distribution", sa.Text),
        sa.PrimaryKeyConstraint("job_id", "distribution", name="pk_job_needs"),
    )
