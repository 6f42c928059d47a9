"""Bytes over the network: a protocol, rules for what an answer may be, and implementations."""
