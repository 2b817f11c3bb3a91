"""The commands of `ireg`, one file each."""
