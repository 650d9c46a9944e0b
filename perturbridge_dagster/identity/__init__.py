"""From source words to identifiers: compounds, genes, cell contexts, doses and times, each answer with its provenance.

Belongs here: the shipped answers (``data/``), how they are looked up and rebuilt, and asking services for what they lack, whose answers a
user's snapshot keeps. Looking up never makes a request. Does not belong here: reading a source's files (``sources/``).
"""
