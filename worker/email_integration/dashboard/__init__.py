"""The statistics of the admin's dashboard: what is asked of the database, and where it is drawn. No HTML here."""
