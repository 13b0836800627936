"""Who may do what: the two tables of the house, and the people and objects that they are tried on.

A new method of a service needs a row in ``services.py``, a new route one in ``routes.py``; the tests that read the
tables (tests/unit/services/test_who_may.py, tests/integration/web/test_who_may.py) name what is missing.
"""
