"""The system around a command: endings, files, locks, processes, terminal."""
