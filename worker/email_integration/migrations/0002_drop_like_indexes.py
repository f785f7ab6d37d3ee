from typing import Any

from django.db import migrations


def drop_like_indexes(apps: Any, schema_editor: Any) -> None:
    """Drop the second index that Django gives on PostgreSQL to each unique text, for LIKE.

    Ids and keys are only looked up as a whole. Each mail would write five entries in these indexes.
    """
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    for name in ("Delivery", "DeliveryAttempt", "DeliveryBatch", "RevokedTask"):
        table = apps.get_model("email_integration", name)._meta.db_table
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, table)
        for index in found:
            if index.endswith("_like"):
                schema_editor.execute(f"DROP INDEX {schema_editor.quote_name(index)}")


class Migration(migrations.Migration):
    dependencies = [("email_integration", "0001_initial")]

    operations = [migrations.RunPython(drop_like_indexes, migrations.RunPython.noop)]
