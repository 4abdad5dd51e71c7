"""Transfers: tables from elsewhere into QCache."""
