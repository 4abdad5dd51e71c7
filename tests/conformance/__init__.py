"""The dev node against a real QCache 0.9.3: the same requests, the same answers."""
