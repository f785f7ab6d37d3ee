"""What becomes of one mail: rendered, submitted, attempted, settled."""
