"""The meaning of a reply for a mail, the states of a mail, and the waits: nothing here reads a table."""
