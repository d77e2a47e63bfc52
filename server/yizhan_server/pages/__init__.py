"""Pages for people's browsers: signing in, agreeing to clients, looking after one's account.

Rendered here, in Chinese and English, for a phone's width; they work without JavaScript and load
nothing from anywhere.
"""
