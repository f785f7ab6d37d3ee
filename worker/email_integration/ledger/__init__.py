"""The state of each delivery: rows, transitions, and what is told of them."""
