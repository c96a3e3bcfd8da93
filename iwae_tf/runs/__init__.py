"""One run on disk, from its options to its results."""
