"""django-post-office: a table of mails, and a command that sends them."""
