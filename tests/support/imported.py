"""Imports all that processes of Keyhall import sooner or later, for the process that tests copy."""

from __future__ import annotations

import gc
import importlib
import pkgutil

import pytest  # noqa: F401 - a copy imports the main module of its parent, which is pytest's

import app
import entrypoints
from alembic import command  # noqa: F401

for _package in (app, entrypoints):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)

gc.collect()
gc.freeze()  # or every copy would walk through all of it, and make its pages its own
