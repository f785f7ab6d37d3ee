"""smtplib on one session with bytes that are there already: what SMTP itself allows in Python."""
