"""A model measured: losses under every routing, what tiles do by class of character, and the tables of it."""
