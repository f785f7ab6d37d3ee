"""Django's mail API: ``queued.EmailBackend`` submits, ``direct.EmailBackend`` sends now."""
