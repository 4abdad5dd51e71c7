"""Compares the dev node with a real QCache 0.9.3: the same requests must get the same answers."""
