"""Scripts with TrainingArguments under each launcher, and in train.sh: each start meets every fault (matrix.py)."""

import pytest

from tests.frameworks.matrix import meets_every_fault, of

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("name", of("transformers", "transformers4"))
def test_a_start_meets_every_fault(undisturbed, disturbed, name):
    """Finished; rows, samples and losses are those of the run that nobody disturbed; the certificate says so."""
    meets_every_fault(undisturbed, disturbed, name)
