"""The mean drift of an epoch as data: many random orders from one checkpoint, against small steps and the mean flow.

`python -m ireg.drift RUN`; docs/drift.md has the method, the formulas and a study.
"""
