"""Mail servers that were written elsewhere, as they are: what each does with our mail, on loopback."""
