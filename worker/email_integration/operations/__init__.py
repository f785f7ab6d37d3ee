"""What machines ask of the web process: whether it lives, whether mail flows, and the metrics."""
