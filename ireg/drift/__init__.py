"""The mean drift of an epoch, measured against small steps and against the mean flow.

The mean is over many random orders from one checkpoint.

`python -m ireg.drift RUN`; docs/drift.md has the method, the formulas and a study.
"""
