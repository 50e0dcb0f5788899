"""labels of launches, relaunches of deployments"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString()
    op.add_column('launch', sa.Column('label', text, nullable=False, server_default=''))
    op.add_column('deployment', sa.Column('relaunches', sa.Integer(), nullable=False, server_default='10'))


def downgrade() -> None:
    op.drop_column('deployment', 'relaunches')
    op.drop_column('launch', 'label')
