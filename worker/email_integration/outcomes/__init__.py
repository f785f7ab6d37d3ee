"""What a server's reply means for a mail: pure functions."""
