"""Record a call once, replay its commands for every later call like it.

The algorithms run in Python against a ``Recorder``, which executes nothing. The recorded commands
become a launch plan, and only plans reach the GPU. A call whose plan is cached takes 25 to 70 us of
host time. One that makes its plan takes 10 to 30 times as long: see ``benchmarks/host_time.py``,
without and with ``--replan``.
"""
