"""Run by Alembic: migrate the connection that `service.db.migrations.upgrade` hands over."""

from alembic import context

from service.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # on SQLite too, where the transaction is begun by us
)
with context.begin_transaction():
    context.run_migrations()
