"""From source words to identifiers: compounds, genes, cell contexts, doses and times, each answer with its provenance.

Belongs here: the shipped answers (``data/``), how they are looked up, and how they are rebuilt. Does not belong here: reading a
source's files (``sources/``) or asking a live service; a service writes its answers into tables of the form shipped here.
"""
