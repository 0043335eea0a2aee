from __future__ import annotations

import pytest
from django.db import connection, models

from rewards.models import Interaction


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL keeps long values apart")
@pytest.mark.django_db
def test_wide_columns_come_last_in_the_interactions_table():
    """Otherwise SQLite reads passages and answers on its way to every later column."""
    with connection.cursor() as cursor:
        columns = [column.name for column in connection.introspection.get_table_description(cursor, Interaction._meta.db_table)]
    fields = Interaction._meta.concrete_fields
    wide = {field.column for field in fields if isinstance(field, models.TextField | models.JSONField)}
    assert set(columns[-len(wide) :]) == wide
