"""The disk. Functions and classes here block: the engine calls them in worker threads."""
