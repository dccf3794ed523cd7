"""The one error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Something that was given cannot be used, and the message says what, why and how to mend it.

    The command line prints the sentence and exits with 2. Every other exception is a bug of ours: a
    traceback, exit 1.

    Example:
        >>> raise InputError("targets/ holds no images; got 3 .txt files. Give a folder of PNG, JPEG or WebP files.")
        Traceback (most recent call last):
        rewardlab.errors.InputError: targets/ holds no images; got 3 .txt files. Give a folder of PNG, JPEG or WebP files.
    """
