"""The state of each delivery: its row, its transitions, and the signals and log lines about them."""
