"""What runs in the image (or on the node without one): one module per stage.

``python -m ca_hpc.steps.train --run RUN --arm finetune --fold 0 --attempt FOLDER …`` is a whole
task; the worker starts it, and a person can paste it.
"""
