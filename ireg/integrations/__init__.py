"""Other libraries' trainers, each in a file of its own that imports its library."""
