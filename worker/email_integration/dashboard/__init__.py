"""The statistics of the admin's dashboard: the database queries and the coordinates of the charts. No HTML here."""
