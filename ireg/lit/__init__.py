"""The Lightning side: data, module, loggers; the only room that imports lightning and torchmetrics."""
