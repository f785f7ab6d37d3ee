"""Send claimed mail: attempts, SMTP sessions, and recording the outcomes."""
