"""Small real worlds that ship with the installed packages: the demo, the tutorials and the studies
need no download.
"""
