"""What administrators do to accounts, on the machine itself; every act goes on the record."""
