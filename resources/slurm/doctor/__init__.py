"""The doctor: looks whether a machine, a login node and a compute node are what payloads need, and says what to do where not.

``python -m resources.slurm.doctor`` prints one line a check. Belongs here: looking. Does not belong here: mending, or submitting work.
"""
