"""The Lightning side: data, module, loggers.

It is the only room that imports lightning and torchmetrics.
"""
