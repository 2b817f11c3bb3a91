"""The scripts that write the result tables of docs."""
