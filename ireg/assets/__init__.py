"""Data that comes with the package; `README.md` in this folder says where it is from."""
