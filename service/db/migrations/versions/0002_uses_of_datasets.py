"""Count how often a dataset was used."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("uses", sa.Integer, nullable=False, server_default="0"))
