"""Plans of memory."""
