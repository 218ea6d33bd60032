"""The real thing of the integration tests, for those that need it here."""

from tests.integration.conftest import (  # noqa: F401
    apptainer,
    cgroup_cluster,
    cluster,
    host_python,
    hpc_user,
    image,
    pytest_runtest_makereport,
    root_only,
    scene,
    scenes,
    seed,
    weights,
    work,
)
