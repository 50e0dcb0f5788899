"""The suite that proves a provider, ours and strangers' alike. It needs the extra `contract`, which is pytest.

A test module of a provider says which lab it runs in, and takes the whole suite:

    @pytest.fixture(scope="session")
    def cloud():
        with my_lab() as lab:  # a providers.contract.lab.Lab
            yield lab

    from providers.contract.suite import *

A provider is finished when this passes. What its lab cannot do is skipped, each time with the reason (`pytest -rs`).
"""

import pytest

# Before they are imported: their assertions tell what they saw.
for _name in ("lab", "launching", "listing", "ending", "failing", "looking"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")
