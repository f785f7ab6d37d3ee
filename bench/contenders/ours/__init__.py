"""This project, as ``config/`` runs it."""
