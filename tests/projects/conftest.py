import pytest


@pytest.fixture(scope="session")
def nanodet():
    """The package of projects/NanoDet, imported as the tools do it."""
    import sys

    from d2_featcomp.engine.arguments import import_modules

    import_modules(["projects/NanoDet/nanodet"])
    return sys.modules["nanodet"]
