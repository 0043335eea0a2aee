"""For every test."""

import sys

import pytest


def pytest_make_parametrize_id(config, val, argname):
    """Long and binary values are named by what they are: two workers must collect the same names, and people read them."""
    if isinstance(val, bytes | bytearray) or (isinstance(val, str) and (len(val) > 60 or not val.isprintable())):
        return f"{argname}-{type(val).__name__}{len(val)}"
    return None


@pytest.fixture(autouse=True)
def no_model_stays_loaded():
    """The next test may give another folder or adapter the same name: numbers of rows begin anew with each."""
    yield
    local = sys.modules.get("agents.llm.local")
    if local is not None and local._engines is not None:
        local._engines.close()
        local._engines = None
