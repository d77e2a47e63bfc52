"""What passes: typing and presence (memory only), receipts, and the unread counts made of them."""
