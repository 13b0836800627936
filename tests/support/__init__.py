"""Tools that tests of every kind share: a real PostgreSQL, outside programs, fakes and simulators."""
