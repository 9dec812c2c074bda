"""One Ray and one TransferQueue for all tests of what a training step makes of its batch."""

import pytest
import ray
import transfer_queue as tq
from omegaconf import OmegaConf


@pytest.fixture(scope="package")
def queue():
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield
    tq.close()
    ray.shutdown()
