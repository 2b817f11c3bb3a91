"""The second study: optimizers after annealing, with weight decay, at several rates of label noise."""
