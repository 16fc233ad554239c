"""Watching a reactor: what its connections do, as samples and events, and ways to look at them.

The reactor itself knows nothing of this, and pays nothing for it unless somebody looks. Begin
with [`tap`](tap.py), which is the contract; the rest shows, serves or keeps what a Tap gives.
"""
