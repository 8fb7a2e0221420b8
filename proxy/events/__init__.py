"""Events: what operators are told of accounts, found in the ledger and sent to their receiver; no call waits."""
