"""The use cases: rules, each in one transaction, shared by every way in."""
