"""Host projects with various settings that Django and Celery allow: each must still work with this app in it.

There is one file for each item, and one host project for each test. ``make guests`` prints the results.
"""
