"""The content repository: files that people upload, and small versions of their pictures.

`files` keeps bytes, `repository` knows what they are and whose, `thumbnails` decides which small
version is wanted and has it made by `resizing`, a process of its own.
"""
