"""Record a call once, replay its commands for every later call like it.

The algorithms run in Python against a ``Recorder``, which executes nothing. The recorded commands
become a launch plan, and only plans reach the GPU. Planning a call takes about 1 ms of host time,
replaying its plan about 20 times less (``benchmarks/host_time.py``).
"""
