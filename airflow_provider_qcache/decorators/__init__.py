"""Task decorators for QCache."""
