"""Corpora, and the windows of text that training and evaluation read."""
