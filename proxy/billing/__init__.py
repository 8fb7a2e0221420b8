"""What finance needs, made from ledger entries."""
