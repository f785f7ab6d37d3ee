"""What a reply means for a mail, which states a mail has, and how long to wait: no table is asked."""
