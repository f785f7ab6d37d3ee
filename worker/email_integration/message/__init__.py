"""A mail as bytes: composed, rendered, encrypted, kept and shown."""
