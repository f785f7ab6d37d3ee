"""Django's own tests of ``django.core.mail``, run with the backends of this app in place of Django's."""
