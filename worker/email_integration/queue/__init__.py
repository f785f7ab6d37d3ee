"""How mail comes into the database, and how what waits there is found: the sweep, and what makes it due again."""
