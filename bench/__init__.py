"""minireactor beside its peers: `python -m bench` compares, `pytest bench` times the parts."""
