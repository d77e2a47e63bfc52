"""What reacts to other servers, and what is sent to them. Asking them is `federation_client`."""
