"""One run: from settings to a folder with its results."""
