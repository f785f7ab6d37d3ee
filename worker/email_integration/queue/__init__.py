"""How mail comes into the database, and what wakes the workers up for it."""
