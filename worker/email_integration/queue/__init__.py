"""Store submitted mail in the database, and find mail that is due: submission, sweeps and retries."""
