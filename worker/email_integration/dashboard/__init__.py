"""What the admin's page of figures tells: what is asked of the database, and where it is drawn. No HTML here."""
