"""PyAthena: a DB-API connection that accepts a session."""

from __future__ import annotations

import pyathena


def test_query(session):
    """A connection on the role's session queries the Athena of the role's account."""
    session.client("s3").create_bucket(Bucket="results")
    connection = pyathena.connect(session=session, region_name="us-east-1", s3_staging_dir="s3://results/")

    with connection.cursor() as cursor:
        cursor.execute("SELECT 7")

        assert cursor.query_id in session.client("athena").list_query_executions()["QueryExecutionIds"]
