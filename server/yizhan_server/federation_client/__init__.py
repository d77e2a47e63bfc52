"""Asking other servers: finding them, proving who asks, and believing little of the answer.

- `client`        all of it in one hand; what the rest of the server is given;
- `errors`        what can go wrong, four ways;
- `peers`         whom this server speaks with at all;
- `places`        server names taken apart;
- `well_known`    and `srv`: the two ways in which a name is delegated;
- `discovery`     from a server name to what is connected to, and whose certificate is asked for;
- `connections`   the pools, TLS, and which addresses may be reached;
- `destinations`  who did not answer and is left alone for a while;
- `requests`      one signed request;
- `answers`       what came back, parsed strictly;
- `events`, `rooms`, `queries`, `keys`, `media`: one method for each endpoint.
- `own_keys`    the files of this server's keys;
- `known_keys`  others' keys as far as they are known, and `key_ring`, which fetches what is missing
                and checks signatures of requests and events (`event_signatures`) with them;
- `notary`      vouching for others' keys.
"""
