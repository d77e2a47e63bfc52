"""The client-server API: thin handlers over the services, and the one wrapper around them."""
