"""Identity servers: others' directories of who has which e-mail address or telephone number.

Whoever runs one learns what is asked of it. So only those that the configuration lists are ever
asked (`identity.allow`, none as delivered), whichever a client may name.
"""
