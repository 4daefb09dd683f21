"""The tables, as the latest migration leaves them. Times are POSIX seconds in UTC.

JSON stays text on PostgreSQL (``JSON``, not ``JSONB``): the binary form reorders keys and rewrites
numbers (1e300 comes back as an integer), and answers must not depend on the database.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

_Json = JSON(none_as_null=True)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 hex of the token; the token itself is not kept
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", Double),
    UniqueConstraint("name"),
    UniqueConstraint("hash"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("manifest", _Json, nullable=False),
    Column("details", _Json, nullable=False),
    Column("labels", _Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("ix_checkpoints_created", "created_at", "digest"),
)

checkpoint_sources = Table(
    "checkpoint_sources",
    metadata,
    Column("source_sha256", Text, primary_key=True),
    Column("declaration", Text, primary_key=True),  # digest of the fields declared beside the file
    Column("digest", ForeignKey("checkpoints.digest", ondelete="CASCADE"), primary_key=True),
    Column("format", Text, nullable=False),
    Column("adjustments", _Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("ix_checkpoint_sources_digest", "digest"),
)

lineages = Table(  # which trainings made a checkpoint, and in which of their epochs
    "lineages",
    metadata,
    Column("digest", ForeignKey("checkpoints.digest", ondelete="CASCADE"), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("base", _Json, nullable=False),
    Column("grid", _Json, nullable=False),
    Column("labels", _Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("ix_sweeps_created", "created_at", "id"),
)

sweep_trainings = Table(
    "sweep_trainings",
    metadata,
    Column("sweep_id", ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("point", _Json, nullable=False),  # values by JSON pointer
)

datasets = Table(
    "datasets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("spec_digest", Text, nullable=False),
    Column("spec", _Json, nullable=False),
    Column("details", _Json, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("job_id", Text),
    Column("uses", Integer, nullable=False, server_default="0"),  # evaluations that succeeded
    Column("deleted_at", Double),  # a deleted version keeps its number: past results name it
    Index("ix_datasets_content", "digest", "spec_digest"),
    Index("ix_datasets_created", "created_at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("priority", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("created_by", Text, nullable=False),
    Column("labels", _Json, nullable=False),
    Column("error", _Json),
    Column("request", _Json, nullable=False),
    Column("payload", _Json, nullable=False),
    Column("result", _Json),
    Column("progress", _Json),
    Column("key", Text),
    Column("device", Text, nullable=False),
    Column("timeout_s", Double),
    Column("cancel_requested", Boolean, nullable=False),
    Column("worker", Text),
    Column("lease_expires_at", Double),
    Column("events", Integer, nullable=False),
    Column("saved", _Json),  # of a training, where it can go on; see service.jobs.saving
    Index("ix_jobs_claim", "state", "priority", "created_at"),
    Index("ix_jobs_list", "kind", "created_at", "id"),
    Index("ix_jobs_key", "key"),
    Index("ix_jobs_lease", "state", "lease_expires_at"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("type", Text, nullable=False),
    Column("data", _Json, nullable=False),
    Column("created_at", Double, nullable=False),
)

job_needs = Table(  # what a worker must have installed to do a job; of most jobs nothing
    "job_needs",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("distribution", Text, primary_key=True),
)

job_totals = Table(
    "job_totals",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("forward_s", Double, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("outcome", _Json),  # null while the first request is being handled
    Column("created_at", Double, nullable=False),
    Index("ix_idempotency_created", "created_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("last_seen_at", Double, nullable=False),
    Column("version", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("details", _Json, nullable=False),
    Column("additions", _Json),  # what plug-ins add to its catalog; null if nothing
    Index("ix_workers_last_seen", "last_seen_at"),
)
