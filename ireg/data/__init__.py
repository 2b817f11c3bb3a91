"""Data: where they are read and verified, label noise, minibatches; torch only."""
