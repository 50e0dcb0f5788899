"""templates, client parameters, people; what tasks ask for and say; artifacts and notifications"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

from orchestrator.model.tables import UtcDateTime

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

String = sqlmodel.sql.sqltypes.AutoString
TABLES = ('notification', 'artifact', 'login', 'person', 'client_param', 'template_version', 'template')


def number() -> sa.types.TypeEngine:
    return sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def key() -> sa.Column:
    return sa.Column('id', number(), autoincrement=True, nullable=False, primary_key=True)


def moment(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, UtcDateTime(timezone=True), nullable=nullable)


def reference(name: str, target: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, number(), sa.ForeignKey(target), nullable=nullable)


def columns() -> list[tuple[str, sa.Column]]:
    return [
        ('client', sa.Column('weight', sa.Float(), nullable=False, server_default='1')),
        ('client', sa.Column('priority', sa.Integer(), nullable=False, server_default='0')),
        ('client', sa.Column('notify', sa.JSON(), nullable=True)),
        ('pool', sa.Column('labels', sa.JSON(), nullable=True)),
        ('pool', sa.Column('clients', sa.JSON(), nullable=True)),
        ('pool', sa.Column('prices', sa.JSON(), nullable=True)),
        ('job', sa.Column('version', String(), nullable=True)),
        ('job', sa.Column('template_version_id', sa.BigInteger(), nullable=True)),
        ('job', sa.Column('rerun_of', sa.BigInteger(), nullable=True)),
        ('job', sa.Column('turn', sa.Float(), nullable=False, server_default='0')),
        ('job', sa.Column('dry_run', sa.Boolean(), nullable=False, server_default=sa.false())),
        ('task', sa.Column('values', sa.JSON(), nullable=True)),
        ('task', sa.Column('condition', sa.Text(), nullable=True)),
        ('task', sa.Column('outputs', sa.JSON(), nullable=True)),
        ('task', sa.Column('has_inputs', sa.Boolean(), nullable=False, server_default=sa.false())),
        ('task', sa.Column('skipped_because', String(), nullable=True)),
        ('task', sa.Column('progress', sa.Float(), nullable=True)),
        ('task', sa.Column('progress_note', String(), nullable=True)),
        ('task', sa.Column('slots', sa.Integer(), nullable=False, server_default='1')),
        ('task', sa.Column('memory_mb', sa.Integer(), nullable=True)),
        ('task', sa.Column('labels', sa.JSON(), nullable=True)),
        ('task', sa.Column('turn', sa.Float(), nullable=False, server_default='0')),
        ('node', sa.Column('memory_mb', sa.Integer(), nullable=True)),
        ('api_token', sa.Column('role', String(), nullable=False, server_default='admin')),
        ('api_token', sa.Column('client_id', sa.BigInteger(), nullable=True)),
        ('api_token', sa.Column('user_id', sa.BigInteger(), nullable=True)),
        ('api_token', moment('expires_at', nullable=True)),
    ]


def upgrade() -> None:
    # Added and dropped in place: making a table anew, as Alembic's batches do on SQLite, would break what refers to its rows.
    op.drop_index('ix_task_queue', 'task')
    for table, column in columns():
        op.add_column(table, column)
    op.create_index('ix_task_queue', 'task', ['state', 'token', sa.text('priority DESC'), 'turn', 'id'])
    given = sa.text('turn > 0')
    op.create_index('ix_job_turn', 'job', ['client_id', 'priority', 'id'], sqlite_where=given, postgresql_where=given)
    only = sa.text('rerun_of IS NOT NULL')
    op.create_index('ix_job_rerun_of', 'job', ['rerun_of'], sqlite_where=only, postgresql_where=only)
    requests = sa.text("subject = 'request'")
    op.create_index('ix_event_request', 'event', ['id'], sqlite_where=requests, postgresql_where=requests)
    of_templates()
    of_people()
    op.create_table('artifact', key(),
    reference('job_id', 'job.id'),
    reference('task_id', 'task.id'),
    reference('attempt_id', 'attempt.id'),
    sa.Column('path', sa.Text(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('sha256', String(), nullable=False),
    moment('stored_at'),
    sa.UniqueConstraint('attempt_id', 'path')
    )
    op.create_index('ix_artifact_job_id', 'artifact', ['job_id'])
    op.create_table('notification', key(),
    reference('job_id', 'job.id'),
    sa.Column('target', sa.JSON(), nullable=False),
    sa.Column('state', String(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('tries', sa.Integer(), nullable=False),
    moment('run_after', nullable=True),
    moment('created_at'),
    moment('sent_at', nullable=True)
    )
    op.create_index('ix_notification_job_id', 'notification', ['job_id'])
    op.create_index('ix_notification_state', 'notification', ['state'])


def of_templates() -> None:
    op.create_table('template', key(),
    sa.Column('name', String(), nullable=False, unique=True),
    reference('client_id', 'client.id'),
    sa.Column('number', sa.Integer(), nullable=False),
    moment('created_at'),
    moment('deleted_at', nullable=True)
    )
    op.create_table('template_version', key(),
    reference('template_id', 'template.id'),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('sha256', String(), nullable=False),
    sa.Column('document', sa.JSON(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('note', sa.Text(), nullable=False),
    sa.Column('committed_by', String(), nullable=False),
    moment('committed_at'),
    sa.UniqueConstraint('template_id', 'number')
    )
    op.create_table('client_param', key(),
    reference('client_id', 'client.id'),
    sa.Column('name', String(), nullable=False),
    sa.Column('value', sa.Text(), nullable=False),
    sa.Column('secret', sa.Boolean(), nullable=False),
    moment('updated_at'),
    sa.Column('updated_by', String(), nullable=False),
    sa.UniqueConstraint('client_id', 'name')
    )


def of_people() -> None:
    op.create_table('person', key(),
    sa.Column('name', String(), nullable=False, unique=True),
    sa.Column('password_hash', String(), nullable=False),
    sa.Column('role', String(), nullable=False),
    reference('client_id', 'client.id', nullable=True),
    sa.Column('must_change_password', sa.Boolean(), nullable=False),
    moment('created_at'),
    moment('disabled_at', nullable=True)
    )
    op.create_table('login', key(),
    sa.Column('hash', String(), nullable=False, unique=True),
    reference('user_id', 'person.id'),
    sa.Column('csrf', String(), nullable=False),
    moment('created_at'),
    moment('expires_at')
    )
    op.create_index('ix_login_user_id', 'login', ['user_id'])


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    op.drop_index('ix_job_rerun_of', 'job')
    op.drop_index('ix_event_request', 'event')
    op.drop_index('ix_task_queue', 'task')
    op.drop_index('ix_job_turn', 'job')
    for table, column in reversed(columns()):
        op.drop_column(table, column.name)
    op.create_index('ix_task_queue', 'task', ['state', 'token', sa.text('priority DESC'), 'id'])
