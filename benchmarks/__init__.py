"""What an epoch costs, against code written by hand."""
