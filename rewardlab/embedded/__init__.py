"""Small real worlds that ship with the installed packages.

The demo, the tutorials and the studies need no download.
"""
