"""Sources of data: which images there are, with which labels, of whom. File names only, no images.

Runs at submission, without nibabel: everything wrong with the names is reported before a job is
queued. The images themselves are read by the prepare stage.
"""
