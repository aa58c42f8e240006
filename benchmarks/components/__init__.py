"""Each component by itself, so that a regression is found where it was made.

Times are CPU times of one operation in the process that does the work, not wall time: other loads
of the machine move them less.  Compare runs by `--benchmark-save` and `--benchmark-compare`.
"""
