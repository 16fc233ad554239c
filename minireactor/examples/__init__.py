"""Complete programs, for people to read and to change: see README.md in this folder."""
