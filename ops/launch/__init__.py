"""What ops/cluster and ops/chaos are made of. Standard library only; Python 3.10 or later."""
