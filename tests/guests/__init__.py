"""Projects of other people, with settings that Django and Celery allow: each goes on working with this app in it.

One file for each item, and one host project for each test. ``make guests`` prints what came of them.
"""
