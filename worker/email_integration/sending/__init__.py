"""How mail leaves: attempts, sessions, and what is recorded of them."""
