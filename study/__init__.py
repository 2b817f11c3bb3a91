"""The study: its cells, its rates, its claims, its pages."""
