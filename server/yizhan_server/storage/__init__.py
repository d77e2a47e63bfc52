"""The homeserver's SQL: one module per family of tables, and the migrations.

Functions that read take the database first; functions that write take the transaction first and
only record. The caller decides what is committed together.
"""
