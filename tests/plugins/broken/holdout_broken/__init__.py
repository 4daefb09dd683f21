"""A plug-in of which each part fails in its own way; this one imports."""
