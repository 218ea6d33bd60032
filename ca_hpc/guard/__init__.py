"""The process between the worker and a task in an image; docs/adr/0005 says why it is needed.

    worker ── guard ─┬─ image server (squashfuse_ll, deaf to signals)
                     └─ keeper ── apptainer exec FOLDER … (the payload)

The keeper is a fork of the guard that lives in the payload's mount namespace. Each of the two
asks the payload to end when the other is gone, so no single SIGKILL leaves it alone; the server
ends when nobody has the image mounted any more.
"""
