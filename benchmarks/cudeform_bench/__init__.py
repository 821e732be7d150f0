"""The benchmark of cudeform: ``python -m cudeform bench`` in a checkout.

``command`` is the command line, ``configs`` holds the problems, ``table`` shows measurements;
``cpu`` and ``gpu`` hold the contestants of each device, how they are timed, and a run's report.
"""
