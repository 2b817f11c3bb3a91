"""The mean drift of an epoch, measured.

Many random orders from one checkpoint are compared with small steps and with the mean flow.

`python -m ireg.drift RUN`; docs/drift.md has the method, the formulas and a study.
"""
