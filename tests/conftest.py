"""For every test."""


def pytest_make_parametrize_id(config, val, argname):
    """Long and binary values are named by what they are: two workers must collect the same names, and people read them."""
    if isinstance(val, bytes | bytearray) or (isinstance(val, str) and (len(val) > 60 or not val.isprintable())):
        return f"{argname}-{type(val).__name__}{len(val)}"
    return None
