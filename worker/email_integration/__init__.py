"""Mail dispatch for Django and Celery: live SMTP configuration, nothing lost, nothing sent twice."""
