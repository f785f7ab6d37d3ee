"""django-mailer: a table of mails, and a command that sends them."""
