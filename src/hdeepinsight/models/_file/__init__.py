"""A saved model as data: its files, their checksums, and how they are written and read."""
