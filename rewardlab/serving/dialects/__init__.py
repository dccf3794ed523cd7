"""The forms of requests and answers, each a file: its path, how it is read, written, refused."""
