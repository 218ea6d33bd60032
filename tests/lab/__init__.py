"""Real SLURM and real Apptainer on one machine, for the integration tests.

Standard library only, so that it runs before anything is installed:

    python3.11 -m tests.lab.apptainer
    python3.11 -m tests.lab.slurm up --root /var/tmp/my-lab
    . /var/tmp/my-lab/env.sh
    python3.11 -m tests.lab.slurm down --wipe --root /var/tmp/my-lab

Both need root on Debian or Ubuntu and may be repeated: what is there already is left as it is.
"""
