"""The configuration of a run: its shape, what is allowed in it, and its errors in one line.

It is checked before anything heavy is imported.
"""
