"""smtplib on one session with prepared bytes: the limit of SMTP in Python."""
