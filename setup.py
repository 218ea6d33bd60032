"""Install the repository's ``configs/``, ``containers/`` and ``jobs/`` inside the package.

They become ``ca_hpc/_shipped/...``. Everything else is in pyproject.toml, which cannot both
find packages by itself and name folders outside of them.
"""

from setuptools import find_packages, setup

SHIPPED = {f"ca_hpc._shipped.{name}": name for name in ("configs", "containers", "jobs")}

setup(
    packages=[*find_packages(include=["ca_hpc*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={"ca_hpc.report": ["*.j2"]} | {name: ["**/*"] for name in SHIPPED},
)
